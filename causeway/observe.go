package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/observe"
)

// lastShown is how many remembered events are shown without --follow.
const lastShown = 20

func newObserveCommand(opts *options) *cobra.Command {
	var request adminpb.ObserveRequest
	var reasons bool
	var socket string
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Show packets between clusters that nodes dropped, and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reasons {
				return showReasons(cmd.OutOrStdout(), opts.output)
			}
			if request.Follow && !cmd.Flags().Changed("last") {
				request.Last = 0
			}
			return showDrops(cmd, opts, socket, &request)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&request.Follow, "follow", "f", false, "show what is dropped from now on, until Ctrl-C")
	f.Uint32Var(&request.Last, "last", lastShown, fmt.Sprintf("begin with the last so many that agents remember, at most %d; each remembers %d (default with --follow 0)", observe.MaxLast, observe.Remembered))
	f.StringVar(&request.Node, "node", "", "only what this node dropped")
	f.StringVar(&request.Direction, "direction", "", `only one direction: "to_mesh" leaves for another cluster, "from_mesh" comes from one`)
	f.StringSliceVar(&request.Reasons, "reason", nil, "only what was dropped for these reasons, with commas")
	f.StringVar(&request.From, "from", "", "only from this address, prefix, or pod as namespace/name")
	f.StringVar(&request.To, "to", "", "only to this address, prefix, or pod as namespace/name")
	f.StringVar(&socket, "agent-socket", "", "ask the agent of this node by its unix `socket` instead of an API server, which may be away: observe.sock in the agent's --state-dir; as root")
	f.BoolVar(&reasons, "reasons", false, "list the reasons, what they mean and what to do, and nothing else")
	return cmd
}

// showReasons lists why packets are dropped.
func showReasons(out io.Writer, output string) error {
	if output == "json" {
		list := []reason{}
		for _, r := range observe.Reasons() {
			list = append(list, reason{r.Name, r.Means, r.Do, !r.Silent})
		}
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(list)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for _, r := range observe.Reasons() {
		fmt.Fprintf(w, "%s\t%s\n\t%s\n", r.Name, r.Means, r.Do)
	}
	return w.Flush()
}

type reason struct {
	Reason string `json:"reason"`
	Means  string `json:"means"`
	Do     string `json:"do"`
	// Events says that there are events of it; else packets are only counted.
	Events bool `json:"events"`
}

// showDrops shows what the API server says, or the agent at a socket, until that
// ends, or the caller ends it, which is no error.
func showDrops(cmd *cobra.Command, opts *options, socket string, request *adminpb.ObserveRequest) error {
	if _, err := observe.ParseFilter(observe.FilterText{
		Direction: request.Direction, Reasons: request.Reasons, From: request.From, To: request.To,
	}); err != nil {
		return err
	}
	who, open := "API server", func() (adminpb.AdminClient, io.Closer, error) { return dial(cmd.Context(), opts) }
	if socket != "" {
		who, open = "agent", func() (adminpb.AdminClient, io.Closer, error) { return dialAgent(socket) }
	}
	client, conn, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx := cmd.Context()
	if !request.Follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	show := &drops{out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr(), json: opts.output == "json", follow: request.Follow, agent: socket != "", zone: time.Local}
	stream, err := client.Observe(ctx, request)
	for err == nil {
		var m *adminpb.ObserveResponse
		if m, err = stream.Recv(); err == nil {
			if err := show.item(m, request.Node); err != nil {
				return err
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return show.end()
	}
	if cmd.Context().Err() != nil {
		return nil
	}
	return fmt.Errorf("ask the %s: %s", who, status.Convert(err).Message())
}

// drops shows what comes, a line each. Whatever is no event or loss goes to
// notes, so that out can be given to a program.
type drops struct {
	out, notes   io.Writer
	json, follow bool
	agent        bool // it is an agent that says it
	zone         *time.Location
	any          bool
}

func (d *drops) item(m *adminpb.ObserveResponse, only string) error {
	switch i := m.Item.(type) {
	case *adminpb.ObserveResponse_Observed:
		return d.observed(i.Observed, only)
	case *adminpb.ObserveResponse_Drop:
		d.any = true
		if d.json {
			return json.NewEncoder(d.out).Encode(newDrop(i.Drop))
		}
		_, err := fmt.Fprintln(d.out, dropLine(i.Drop, d.zone))
		return err
	case *adminpb.ObserveResponse_Lost:
		if d.json {
			return json.NewEncoder(d.out).Encode(lost{i.Lost.Events, i.Lost.Node})
		}
		_, err := fmt.Fprintln(d.out, lostLine(i.Lost))
		return err
	case *adminpb.ObserveResponse_Change:
		return d.note(changeLine(i.Change))
	}
	return nil
}

func (d *drops) note(text string) error {
	_, err := fmt.Fprintln(d.notes, "causeway:", text)
	return err
}

// observed says which nodes are not seen. That there are none is an error for
// who asks for what was.
func (d *drops) observed(o *adminpb.Observed, only string) error {
	switch {
	case len(o.Nodes) > 0 && len(o.Others) == 0:
		return nil
	case d.agent && only != "" && !slices.Contains(o.Others, only):
		return fmt.Errorf("this is not the agent of node %s", only)
	case len(o.Nodes) > 0:
		return d.note(fmt.Sprintf("not seen: %s, whose agents carry no packets between clusters or are not connected to this API server", strings.Join(short(o.Others), ", ")))
	}
	text := "no agent carries packets between clusters, so there is nothing to see: is --mesh-cidr set, and are the agents connected to this API server? See causeway status"
	switch {
	case d.agent:
		text = "the agent carries no packets between clusters, so there is nothing to see: does this node have a mesh address (--mesh-cidr of the API server)? See causeway status"
	case only != "" && len(o.Others) == 0:
		text = fmt.Sprintf("the cluster has no node %q", only)
	case only != "":
		text = fmt.Sprintf("the agent of node %s carries no packets between clusters, or is not connected to this API server: see causeway status", only)
	}
	if !d.follow {
		return errors.New(text)
	}
	return d.note(text + "; waiting")
}

// short names some of many.
func short(names []string) []string {
	const most = 5
	if len(names) <= most {
		return names
	}
	return append(names[:most:most], fmt.Sprintf("%d more", len(names)-most))
}

// end says what was all.
func (d *drops) end() error {
	if d.any {
		return nil
	}
	return d.note("agents remember no such packet")
}

func lostLine(l *adminpb.Lost) string {
	events := fmt.Sprintf("%d events were lost", l.Events)
	if l.Events == 1 {
		events = "1 event was lost"
	}
	if l.Node == "" {
		return fmt.Sprintf("... %s: they came faster than they were read here", events)
	}
	return fmt.Sprintf("... %s: %s had more than it may send; causeway_packet_packets_total counts all", events, l.Node)
}

func changeLine(c *adminpb.NodeChange) string {
	switch observe.ChangeState(c.State) {
	case observe.Away:
		return c.Node + ": the agent has gone; what is dropped there is not seen until it is back"
	case observe.Back:
		return c.Node + ": the agent is there; what is dropped there is seen from now on"
	case observe.Silent:
		return c.Node + ": the agent did not say in time what it remembers"
	}
	return c.Node + ": " + c.State
}
