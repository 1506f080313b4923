package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
)

// waitStep is how often --wait asks.
const waitStep = 200 * time.Millisecond

func newStatusCommand(opts *options) *cobra.Command {
	var wait bool
	var timeout time.Duration
	var addresses bool
	var who addressFilter
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster, its peers and its agents; exit status 1 when something is not ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if addresses {
				return showAddresses(cmd, opts, &who)
			}
			if name := who.given(cmd.Flags()); name != "" {
				return fmt.Errorf("--%s narrows what --addresses shows: give that, too", name)
			}
			answer, err := waitStatus(cmd.Context(), opts, wait, timeout)
			if err != nil {
				return err
			}
			if opts.output == "json" {
				err = printJSON(cmd.OutOrStdout(), answer)
			} else {
				err = writeStatus(cmd.OutOrStdout(), answer, time.Now())
			}
			if err == nil && !answer.Ready {
				err = errNotReady
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until all is ready")
	cmd.Flags().BoolVar(&addresses, "addresses", false, "show who is behind the addresses of the mesh instead")
	who.flags(cmd.Flags())
	cmd.MarkFlagsMutuallyExclusive("addresses", "wait")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long --wait waits; the last answer is shown then")
	return cmd
}

// waitStatus asks once, or with wait until all is ready; the last answer, or why
// there is none, comes when the time is over.
func waitStatus(ctx context.Context, opts *options, wait bool, timeout time.Duration) (*adminpb.StatusResponse, error) {
	if !wait {
		return askStatus(ctx, opts)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	step := time.NewTicker(waitStep)
	defer step.Stop()
	var last *adminpb.StatusResponse
	var trouble error
	for {
		// The API server may not even have written the admin file yet.
		answer, err := askStatus(ctx, opts)
		switch {
		case err == nil && answer.Ready:
			return answer, nil
		case err == nil:
			last = answer
		case ctx.Err() == nil || trouble == nil: // not what the end of the wait itself did
			trouble = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return last, nil
			}
			return nil, fmt.Errorf("no answer within %s: %w", timeout, trouble)
		case <-step.C:
		}
	}
}

func askStatus(ctx context.Context, opts *options) (*adminpb.StatusResponse, error) {
	client, conn, err := dial(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return ask(ctx, client.Status, &adminpb.StatusRequest{})
}

// writeStatus shows an answer to a person.
func writeStatus(out io.Writer, r *adminpb.StatusResponse, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	c := r.Cluster
	fmt.Fprintf(w, "Cluster %s, id %d of %d, version %s, up %s\n\n", c.Name, c.Id, c.MaxConnectedClusters, c.Version, age(c.Started, now))
	writeConditions(w, r, now)
	writePeers(w, r, now)
	writeReaches(w, r)
	writeAgents(w, r, now)
	writeProblems(w, r, now)
	if r.Ready {
		fmt.Fprintln(w, "\nReady.")
	} else {
		fmt.Fprintf(w, "\nNot ready: %s.\n", strings.Join(notReady(r), "; "))
	}
	return w.Flush()
}

func writeConditions(w io.Writer, r *adminpb.StatusResponse, now time.Time) {
	for _, c := range r.Conditions {
		state := "ready"
		switch {
		case !c.Ready:
			state = "not ready: " + c.Reason
		case c.Reason != "":
			state = "ready: " + c.Reason
		}
		if server := r.GetSource().GetKubernetes(); c.Name == "source" && server != "" {
			state += " (the Kubernetes API at " + server + ")"
		}
		fmt.Fprintf(w, "  %s\t%s\n", c.Name, state)
	}
	if r.Writer != nil {
		fmt.Fprintf(w, "  writer\t%s\n", writer(r.Writer, now))
	}
	if r.Gateway != nil {
		fmt.Fprintf(w, "  reached at\t%s\n", reachedAt(r.Gateway))
	}
	n := r.Cluster.Counts
	fmt.Fprintf(w, "  own state\t%d nodes, %d addresses, %d identities, %d services, %d endpoint slices of global services\n",
		n.Nodes, n.Addresses, n.Identities, n.Services, n.EndpointSlices)
}

// reachedAt says by which addresses other clusters reach the gateway.
func reachedAt(g *adminpb.Gateway) string {
	text := orDash(strings.Join(g.Addresses, ", "))
	switch {
	case g.Service == "":
		return text
	case g.Note == "":
		return fmt.Sprintf("%s (Service %s)", text, g.Service)
	}
	return fmt.Sprintf("%s (Service %s: %s)", text, g.Service, g.Note)
}

// writer says which replica writes.
func writer(r *adminpb.Writer, now time.Time) string {
	switch {
	case r.Error != "":
		return "not known: " + r.Error
	case r.Replica == "":
		return "none at present, for " + age(r.Since, now)
	case r.Self:
		return fmt.Sprintf("this replica, %s, for %s", r.Replica, age(r.Since, now))
	default:
		return fmt.Sprintf("replica %s, for %s", r.Replica, age(r.Since, now))
	}
}

func writePeers(w io.Writer, r *adminpb.StatusResponse, now time.Time) {
	if len(r.Peers) == 0 {
		fmt.Fprintln(w, "\nNo peers.")
		return
	}
	fmt.Fprintln(w, "\nPEER\tID\tSTATE\tLAST CHANGE\tHEARTBEAT\tNODES\tADDRESSES\tIDENTITIES\tSERVICES\tSLICES\tREFUSED")
	for _, p := range r.Peers {
		n := p.Counts
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", p.Name, id(p.Id), p.State, ago(p.LastChange, now), ago(p.Heartbeat, now),
			n.Nodes, n.Addresses, n.Identities, n.Services, n.EndpointSlices, sum(p.Refused))
	}
	for _, p := range r.Peers {
		if p.Reason != "" {
			fmt.Fprintf(w, "  %s: %s\n", p.Name, p.Reason)
		}
		if p.WaitingRanges > 0 {
			fmt.Fprintf(w, "  %s: names %d ranges outside of its claims, see causeway peers %s\n", p.Name, p.WaitingRanges, p.Name)
		}
		if p.LastRefused != "" {
			fmt.Fprintf(w, "  %s: last refused: %s\n", p.Name, p.LastRefused)
		}
	}
}

func writeAgents(w io.Writer, r *adminpb.StatusResponse, now time.Time) {
	if len(r.Agents) == 0 {
		fmt.Fprintln(w, "\nNo agents.")
		return
	}
	meshed := len(r.Reaches) > 0
	fmt.Fprintf(w, "\nAGENT\tSTATE\tSINCE\tSERVICES\tFRONTENDS\tBACKENDS\tADDRESSES\t%sVERSION\n", column(meshed, "MESH ADDRESS"))
	for _, a := range r.Agents {
		mesh := column(meshed, orDash(strings.Join(a.GetMesh().GetAddresses(), ",")))
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s%s\n", a.Node, agentState(a), ago(a.Since, now), a.Services, a.Frontends, a.Backends, a.Addresses, mesh, orDash(a.Version))
	}
	for _, a := range r.Agents {
		if a.Error != "" {
			fmt.Fprintf(w, "  %s: %s\n", a.Node, a.Error)
		}
		if text := a.GetMesh().GetError(); text != "" {
			fmt.Fprintf(w, "  %s: packets to other clusters: %s\n", a.Node, text)
		}
		for _, text := range a.GetMesh().GetProblems() {
			fmt.Fprintf(w, "  %s: %s\n", a.Node, text)
		}
	}
}

// column is one that is shown only sometimes.
func column(shown bool, text string) string {
	if !shown {
		return ""
	}
	return text + "\t"
}

// writeReaches shows how packets get to the peers; nothing where that is left to
// the network.
func writeReaches(w io.Writer, r *adminpb.StatusResponse) {
	if len(r.Reaches) == 0 {
		return
	}
	fmt.Fprintln(w, "\nPACKETS TO\tMODE\tRANGES\tREFUSED\tPATHS\tNODES WITH A MESH ADDRESS")
	for _, p := range r.Reaches {
		name := p.Cluster
		if p.Mode == "" {
			name += " (here)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d of %d\n", name, orDash(p.Mode), some(p.Ranges, p.RangeCount), p.RefusedCount, pathsOf(p), p.MeshNodes, p.Nodes)
	}
	for _, p := range r.Reaches {
		if p.ModeReason != "" {
			fmt.Fprintf(w, "  %s: %s\n", p.Cluster, p.ModeReason)
		}
		for _, refused := range p.Refused {
			fmt.Fprintf(w, "  %s: range %s is not used: it %s\n", p.Cluster, refused.Range, refused.Reason)
		}
	}
}

// pathsOf says how many of the paths that are tried are good; causeway diagnose has
// the rest.
func pathsOf(p *adminpb.Reach) string {
	switch {
	case p.Paths == 0:
		return "-"
	case p.PathsOk == p.Paths:
		return "ok"
	}
	return fmt.Sprintf("%d of %d", p.PathsOk, p.Paths)
}

// some shows the first of a list of so many.
func some(list []string, count uint32) string {
	const most = 3
	text := strings.Join(list[:min(len(list), most)], ",")
	if count > most {
		text += fmt.Sprintf(" and %d more", count-most)
	}
	return orDash(text)
}

func agentState(a *adminpb.Agent) string {
	switch {
	case !a.Connected:
		return "away"
	case !a.Current:
		return "behind"
	default:
		return "current"
	}
}

func writeProblems(w io.Writer, r *adminpb.StatusResponse, now time.Time) {
	var lines []string
	for _, p := range r.Source.Problems {
		where := p.File
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d", p.File, p.Line)
		}
		if r.Source.Kubernetes != "" {
			lines = append(lines, fmt.Sprintf("Kubernetes API, for %s: %s: %s", age(p.Since, now), where, p.Message))
			continue
		}
		lines = append(lines, fmt.Sprintf("manifests: %s: %s", where, p.Message))
	}
	for _, p := range r.PeerProblems {
		where := "peers"
		if p.File != "" {
			where += ": " + p.File
		}
		lines = append(lines, where+": "+p.Message)
	}
	lines = append(lines, r.PublishProblems...)
	for _, note := range r.Source.RangeNotes {
		lines = append(lines, "ranges: "+note)
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, "\nPROBLEMS")
	for _, line := range lines {
		fmt.Fprintf(w, "  %s\n", line)
	}
}

// notReady names what an answer waits for.
func notReady(r *adminpb.StatusResponse) []string {
	var out []string
	for _, c := range r.Conditions {
		if !c.Ready {
			out = append(out, c.Name)
		}
	}
	if w := r.Writer; w != nil && (w.Replica == "" || w.Error != "") {
		out = append(out, "writer")
	}
	for _, p := range r.Peers {
		if !p.Ready {
			out = append(out, "peer "+p.Name)
		}
	}
	for _, a := range r.Agents {
		if !a.Ready {
			out = append(out, "agent "+a.Node)
		}
	}
	if n := len(r.Source.Problems); n > 0 {
		of := "manifests"
		if r.Source.Kubernetes != "" {
			of = "Kubernetes API"
		}
		out = append(out, fmt.Sprintf("%d problems of the %s", n, of))
	}
	if n := len(r.PeerProblems); n > 0 {
		out = append(out, fmt.Sprintf("%d problems of the peer files", n))
	}
	return out
}

func id(n uint32) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func sum(counts map[string]uint32) uint32 {
	var n uint32
	for _, c := range counts {
		n += c
	}
	return n
}

func ago(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return "-"
	}
	return age(t, now) + " ago"
}

// age is rounded to what a person reads at a glance.
func age(t *timestamppb.Timestamp, now time.Time) string {
	d := max(now.Sub(t.AsTime()), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
