package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/preflight"
	"github.com/causeway-mesh/causeway/pkg/process"
)

// lookAround says, before an agent runs on a node, what it will find there.
type lookAround struct {
	config preflight.Config
	nodes  []string
	output string
}

func (l *lookAround) command() process.Command {
	return process.Command{
		Name:    "preflight",
		Summary: "Looks at this node before an agent runs here: kernel, other programs, ports, network, ways to other clusters. Changes nothing.",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&l.config.Node, "node-name", "", "`name` of this node in the report")
			f.StringVar(&l.config.BPFFS, "bpffs-dir", defaultBPFFS, "the agent's `folder` on a BPF file system")
			f.StringVar(&l.config.Cgroup, "cgroup-root", "", "cgroup v2 `folder` above all workloads of the node (found when not given)")
			f.StringVar(&l.config.Device, "mesh-device", host.DefaultDevice, "`name` of the tunnel device")
			f.Uint16Var(&l.config.Port, "mesh-port", host.DefaultPort, "UDP `port` of the tunnels")
			f.StringSliceVar(&l.config.Gateways, "gateway", nil, "`host:port` of another cluster's gateway that is tried, several with commas")
			f.StringSliceVar(&l.nodes, "remote-node", nil, "`address` of another cluster's node that is tried, several with commas")
			f.StringVar(&l.output, "output", "table", "table or json")
		},
		Validate: l.validate,
		Run:      l.run,
	}
}

func (l *lookAround) validate() error {
	if l.output != "table" && l.output != "json" {
		return fmt.Errorf("--output: %q is neither table nor json", l.output)
	}
	if l.config.Port == 0 {
		return fmt.Errorf("--mesh-port: 0 is no port")
	}
	for _, gateway := range l.config.Gateways {
		if _, _, err := net.SplitHostPort(gateway); err != nil {
			return fmt.Errorf("--gateway: %q is not host:port", gateway)
		}
	}
	for _, text := range l.nodes {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("--remote-node: %q is no address", text)
		}
		l.config.Nodes = append(l.config.Nodes, ip)
	}
	return nil
}

// run prints the report. It is no error that the node can not run an agent: the
// report says so.
func (l *lookAround) run(ctx context.Context, stdout io.Writer) error {
	report := preflight.Look(ctx, l.config)
	if l.output == "json" {
		return json.NewEncoder(stdout).Encode(report)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tRESULT\tFOUND")
	for _, f := range report.Findings {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Check, f.Level, f.What)
		if f.Do != "" && f.Level != preflight.Fine {
			fmt.Fprintf(table, "\t\t-> %s\n", f.Do)
		}
	}
	return table.Flush()
}
