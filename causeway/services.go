package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func newServicesCommand(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "services [NAMESPACE/NAME]",
		Short: "Show where the backends of global services are, and which are used here and why",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &adminpb.ServicesRequest{}
			if len(args) == 1 {
				namespace, name, ok := strings.Cut(args[0], "/")
				if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
					return fmt.Errorf("%q is not NAMESPACE/NAME", args[0])
				}
				request.Namespace, request.Name = namespace, name
			}
			client, conn, err := dial(cmd.Context(), opts)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			answer, err := ask(cmd.Context(), client.Services, request)
			if err != nil {
				return err
			}
			if opts.output == "json" {
				return printJSON(cmd.OutOrStdout(), answer)
			}
			return writeServices(cmd.OutOrStdout(), answer)
		},
	}
}

// writeServices shows an answer to a person.
func writeServices(out io.Writer, r *adminpb.ServicesResponse) error {
	if len(r.Services) == 0 {
		_, err := fmt.Fprintln(out, `No global services: annotate a Service with causeway.io/global: "true".`)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	for i, s := range r.Services {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, heading(s))
		fmt.Fprintln(w, "  CLUSTER\tUSED HERE\tBACKEND\tPORTS\tSTATE\tPOD\tNODE")
		for _, c := range s.Clusters {
			writeSide(w, c)
		}
		if hasOther(s) {
			fmt.Fprintln(w, "  SCTP ports are left to kube-proxy.")
		}
		if s.Mirror != nil {
			fmt.Fprintln(w, "  "+mirrorLine(s.Mirror))
		}
	}
	return w.Flush()
}

func heading(s *adminpb.Service) string {
	name := s.Namespace + "/" + s.Name
	switch {
	case !s.Here:
		return name + ": not in this cluster, so nothing here uses it"
	case !s.Global:
		return name + ": not global in this cluster, so left to kube-proxy"
	case len(s.Frontends) == 0:
		return fmt.Sprintf("%s: headless, affinity %s", name, s.Affinity)
	}
	line := fmt.Sprintf("%s: at %s, %s, affinity %s", name, addresses(s.Frontends), ports(s.Frontends[0].Ports), s.Affinity)
	if len(s.External) > 0 {
		line += ", also at " + addresses(s.External)
	}
	if s.SessionSeconds > 0 {
		line += fmt.Sprintf(", a client keeps its backend for %v", time.Duration(s.SessionSeconds)*time.Second)
	}
	if s.NodeLocal {
		line += ", each node uses its own backends alone"
	}
	return line
}

func addresses(frontends []*adminpb.Frontend) string {
	ips := make([]string, 0, len(frontends))
	for _, f := range frontends {
		ips = append(ips, f.Ip)
	}
	return strings.Join(ips, " and ")
}

func writeSide(w io.Writer, c *adminpb.ServiceCluster) {
	used := "yes"
	if !c.Used {
		used = "no: " + c.Reason
	}
	if len(c.Backends) == 0 {
		fmt.Fprintf(w, "  %s\t%s\t-\t-\t-\t-\t-\n", c.Cluster, used)
	}
	for _, b := range c.Backends {
		used := used
		serves := merge.StateReady
		if c.Terminating {
			serves = merge.StateTerminating
		}
		if c.Used && b.State != serves {
			used = "no: " + b.State
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Cluster, used, b.Ip, ports(b.Ports), b.State, orDash(b.Pod), orDash(b.Node))
	}
}

// mirrorLine says how it stands with remote backends in the Kubernetes API.
func mirrorLine(m *adminpb.Mirror) string {
	line := fmt.Sprintf("In Kubernetes: %d remote backends in %d EndpointSlices", m.Endpoints, m.Objects)
	if m.Wanted != m.Endpoints {
		line += fmt.Sprintf(", to be %d", m.Wanted)
	}
	if m.Reason != "" {
		line += ": " + m.Reason
	}
	return line + "."
}

// hasOther reports whether a service has ports that are not translated.
func hasOther(s *adminpb.Service) bool {
	for _, f := range s.Frontends {
		for _, p := range f.Ports {
			if p.Protocol != string(service.TCP) && p.Protocol != string(service.UDP) {
				return true
			}
		}
	}
	return false
}

// ports lists ports as "http 80/TCP, 53/UDP".
func ports(list []*adminpb.Port) string {
	if len(list) == 0 {
		return "-"
	}
	texts := make([]string, 0, len(list))
	for _, p := range list {
		text := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.Name != "" {
			text = p.Name + " " + text
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}
