//go:build !nokubernetes

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/causeway/install"
)

func newPreflightCommand(opts *options) *cobra.Command {
	var flags installFlags
	var several severalFlags
	cmd := &cobra.Command{
		Use:   "preflight --contexts NAME,NAME...",
		Short: "Look at Kubernetes clusters and each of their nodes before Causeway goes there",
		Long: `Look at Kubernetes clusters, and at each of their nodes, for what would be in Causeway's way:
all that causeway up looks at before it changes anything. A pod of the agent's image, with the
agent's rights, looks at its node's kernel and hooks, the cgroup v2 root, the BPF file system,
others' programs, ports, MTU, forwarding, firewall, masquerade and rp_filter, and tries some
nodes of the other clusters. The pods, and the namespace if it was missing, are removed.

Shown is what is not as it should be: a note needs nothing to be done, with a limit some of the
mesh does not work on that node, with a fail nothing does. The exit status is 1 where
something fails. Give the flags that causeway up is to get: the images are needed here, too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return reportError(cmd, opts, preflight(cmd, opts, &flags, several))
		},
	}
	f := cmd.Flags()
	flags.lookFlags(f)
	flags.valueFlags(f)
	several.flags(f, opts)
	return cmd
}

// errNodes is for nodes that were shown.
var errNodes = errors.New("agents can not run on all nodes, see above")

func preflight(cmd *cobra.Command, opts *options, flags *installFlags, several severalFlags) error {
	cfg, err := several.config(cmd, opts, flags, showEvents(cmd.ErrOrStderr(), &options{}))
	if err != nil {
		return err
	}
	reports, err := install.Preflight(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	if opts.output == "json" {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(reports)
	} else {
		err = writeReports(cmd.OutOrStdout(), reports)
	}
	for n := range reports {
		if err == nil && reports[n].Failed() {
			err = errNodes
		}
	}
	return err
}

func writeReports(out io.Writer, reports []install.NodeReport) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	shown, fine := 0, 0
	for n := range reports {
		r := &reports[n]
		worse := r.Worse()
		fine += len(r.Findings) - len(worse)
		for _, f := range worse {
			if shown++; shown == 1 {
				fmt.Fprintln(table, "CLUSTER\tNODE\tCHECK\tRESULT\tFOUND")
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Cluster, r.Node, f.Check, f.Level, f.What)
			if f.Do != "" {
				fmt.Fprintf(table, "\t\t\t\t-> %s\n", f.Do)
			}
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%d nodes: %d findings are as they should be, %d are not.\n", len(reports), fine, shown)
	return err
}
