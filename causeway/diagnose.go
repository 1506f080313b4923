package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
)

func newDiagnoseCommand(opts *options) *cobra.Command {
	var request adminpb.DiagnoseRequest
	cmd := &cobra.Command{
		Use:   "diagnose",
		Short: "Show whether packets to other clusters arrive, and what to do; exit status 1 when something is wrong",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, conn, err := dial(cmd.Context(), opts)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			answer, err := ask(cmd.Context(), client.Diagnose, &request)
			if err != nil {
				return err
			}
			if opts.output == "json" {
				err = printJSON(cmd.OutOrStdout(), answer)
			} else {
				err = writeDiagnosis(cmd.OutOrStdout(), answer, time.Now())
			}
			if err == nil && !answer.Ok {
				err = errNotReady
			}
			return err
		},
	}
	cmd.Flags().StringVar(&request.Node, "node", "", "only what this node finds")
	cmd.Flags().StringVar(&request.Peer, "peer", "", "only the way to this cluster")
	return cmd
}

// writeDiagnosis shows an answer to a person: the table, what is wrong, and what
// is ours on the nodes.
func writeDiagnosis(out io.Writer, r *adminpb.DiagnoseResponse, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tPEER\tSTATE\tREACHED\tMODE\tROUND TRIP\tMTU\tSOURCE\tASKED")
	for _, n := range r.Nodes {
		if len(n.Peers) == 0 {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\t-\t-\t%s\n", n.Node, ago(n.Reported, now))
		}
		for _, p := range n.Peers {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Node, p.Cluster, p.State, reached(p), modeOf(p),
				roundTrips(p), mtuOf(p, n), orDash(p.Source), ago(n.Reported, now))
		}
	}
	writeSpare(w, r)
	wrong := 0
	for _, n := range r.Nodes {
		wrong += writeWrong(w, n, wrong == 0)
	}
	fmt.Fprintln(w, "\nOURS ON\tKIND\tNAME")
	for _, n := range r.Nodes {
		for _, i := range n.Items {
			fmt.Fprintf(w, "%s\t%s\t%s\n", n.Node, i.Kind, i.Name)
		}
		if more := int(n.ItemCount) - len(n.Items); more > 0 {
			fmt.Fprintf(w, "%s\t\tand %d more\n", n.Node, more)
		}
	}
	switch {
	case r.Ok:
		fmt.Fprintln(w, "\nNothing is wrong.")
	case wrong == 0:
		fmt.Fprintln(w, "\nNot everything is known yet: ask again in some seconds.")
	}
	return w.Flush()
}

// writeSpare shows what there is to say of ways that are not in use, or that nobody
// tries, which is no fault.
func writeSpare(w io.Writer, r *adminpb.DiagnoseResponse) {
	first := true
	for _, n := range r.Nodes {
		for _, p := range n.Peers {
			for _, t := range p.Troubles {
				if !p.Spare && p.State != stateUntried {
					continue
				}
				if first {
					fmt.Fprintln(w, "\nNOT IN USE, OR UNTRIED")
				}
				first = false
				fmt.Fprintf(w, "  %s to %s, %s: %s\n    %s\n", n.Node, p.Cluster, p.Mode, troubleLine(t), t.Do)
			}
		}
	}
}

// writeWrong shows what is wrong with one node, and returns how much that is.
func writeWrong(w io.Writer, n *adminpb.NodeDiagnosis, first bool) (wrong int) {
	say := func(format string, args ...any) {
		if first && wrong == 0 {
			fmt.Fprintln(w, "\nWRONG")
		}
		wrong++
		fmt.Fprintf(w, format, args...)
	}
	if n.Error != "" && !n.Ok {
		say("  %s: %s\n", n.Node, n.Error)
	}
	for _, problem := range n.Problems {
		say("  %s: %s\n", n.Node, problem)
	}
	for _, p := range n.Peers {
		for _, t := range p.Troubles {
			if p.Spare || p.State == stateUntried {
				continue
			}
			say("  %s to %s: %s\n    %s\n", n.Node, p.Cluster, troubleLine(t), t.Do)
		}
	}
	return wrong
}

func troubleLine(t *adminpb.Trouble) string {
	text := t.Means
	if t.Detail != "" {
		text += ": " + t.Detail
	}
	switch {
	case t.Paths == 1:
		text += ", on the way to " + t.Node
	case t.Paths > 1:
		text += fmt.Sprintf(", on %d ways, such as that to %s", t.Paths, t.Node)
	}
	return text
}

// stateUntried is that of a way that nobody tries, which is not known to be wrong.
const stateUntried = "untried"

// modeOf says which way it is, in brackets when it is not in use.
func modeOf(p *adminpb.PeerDiagnosis) string {
	if p.Spare {
		return "(" + p.Mode + ")"
	}
	return orDash(p.Mode)
}

func reached(p *adminpb.PeerDiagnosis) string {
	if p.Paths == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", p.Reachable+p.Degraded, p.Paths)
}

// roundTrips are the least, the median and the greatest.
func roundTrips(p *adminpb.PeerDiagnosis) string {
	if p.RttMedian == nil {
		return "-"
	}
	ms := func(d *durationpb.Duration) float64 { return float64(d.AsDuration()) / float64(time.Millisecond) }
	return fmt.Sprintf("%.2f/%.2f/%.2f ms", ms(p.RttMin), ms(p.RttMedian), ms(p.RttMax))
}

func mtuOf(p *adminpb.PeerDiagnosis, n *adminpb.NodeDiagnosis) string {
	switch {
	case p.Mtu == 0:
		return "-"
	case p.Mtu < n.Mtu:
		return fmt.Sprintf("%d of %d", p.Mtu, n.Mtu)
	}
	return fmt.Sprint(p.Mtu)
}
