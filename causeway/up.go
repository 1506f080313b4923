//go:build !nokubernetes

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/causeway/install"
	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

// meshRange is what clusters get their mesh addresses from unless somebody says
// otherwise: shared address space (RFC 6598), which is no cluster's default.
const meshRange = "100.64.0.0/10"

// smallestMeshRange leaves each of 512 clusters 126 addresses.
const smallestMeshRange = 16

func newUpCommand(opts *options) *cobra.Command {
	var flags installFlags
	var several severalFlags
	var skip bool
	cmd := &cobra.Command{
		Use:   "up --contexts NAME,NAME...",
		Short: "Put Causeway into several Kubernetes clusters and join them, in one step",
		Long: `Put Causeway into several Kubernetes clusters and join them all with each other. It
looks at all clusters first, and says at once all that speaks against it; where nothing is
installed yet a pod looks at each node, as causeway preflight has it. Then it installs where Causeway is missing, upgrades where another version is, joins what is not joined, and
waits until all is ready. Done again, it changes nothing; what broke off, by Ctrl-C, a lost
connection or --timeout, is finished by the same command.

Names are those of the contexts (kind-east is east), ids the lowest that are free. What a
cluster lacks is worked around, and said: without a default StorageClass etcd is in memory, and
what must outlive a pod is kept in Secrets; without load balancers others reach the gateway by a
port of the nodes.

Values that begin with a cluster's name and a colon are for that cluster alone:
--set east:gateway.type=LoadBalancer, --values west:west.yaml.

With kind, whose nodes have no registry:

  make images TAG=dev
  kind load image-archive out/images.tar --name east
  kind load image-archive out/images.tar --name west
  causeway up --contexts kind-east,kind-west --images out/images.tar`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return reportError(cmd, opts, up(cmd, opts, &flags, several, skip))
		},
	}
	f := cmd.Flags()
	flags.flags(f)
	flags.valueFlags(f)
	several.flags(f, opts)
	f.BoolVar(&skip, "skip-preflight", false, "install without a look at the nodes")
	return cmd
}

func up(cmd *cobra.Command, opts *options, flags *installFlags, several severalFlags, skip bool) error {
	cfg, err := several.config(cmd, opts, flags, showEvents(cmd.OutOrStdout(), opts))
	if err != nil {
		return err
	}
	cfg.DryRun, cfg.SkipPreflight = flags.dryRun, skip
	cfg.Connect = func(ctx context.Context, clusters []*install.Installer) error {
		return connectInstalled(ctx, clusters, cfg.Show)
	}
	members, err := install.Up(cmd.Context(), cfg)
	if err != nil || flags.dryRun || opts.output == "json" {
		return err
	}
	return writeMembers(cmd.Context(), cmd.OutOrStdout(), members)
}

// severalFlags name clusters, and what each is to be in the mesh.
type severalFlags struct {
	contexts, names []string
	ids             []int
	mesh            string
}

func (s *severalFlags) flags(f *pflag.FlagSet, opts *options) {
	opts.kubernetes.contextsFlag(f, &s.contexts)
	f.StringSliceVar(&s.names, "names", nil, "the clusters' `names` in the mesh, in the order of --contexts (default: the contexts')")
	f.IntSliceVar(&s.ids, "ids", nil, "their `numbers`, in the same order (default: those that they have, else the lowest that are free)")
	f.StringVar(&s.mesh, "mesh-cidr", meshRange, "`range` that no cluster uses, of which each gets the part of its id for its nodes' mesh addresses; none where the network has routes between all pods")
}

// config checks the flags, and opens all clusters.
func (s *severalFlags) config(cmd *cobra.Command, opts *options, flags *installFlags, show func(install.Event)) (install.UpConfig, error) {
	cfg := install.UpConfig{Names: s.names, IDs: s.ids, Show: show, Peers: peersOf}
	switch {
	case len(s.contexts) == 0:
		return cfg, errors.New("give --contexts: the names of the clusters' contexts, with commas")
	case len(s.names) > 0 && len(s.names) != len(s.contexts):
		return cfg, errors.New("--names: give one for each of --contexts")
	case len(s.ids) > 0 && len(s.ids) != len(s.contexts):
		return cfg, errors.New("--ids: give one for each of --contexts")
	}
	if s.mesh != "none" {
		var err error
		if cfg.MeshRange, err = netip.ParsePrefix(s.mesh); err != nil || !cfg.MeshRange.Addr().Is4() || cfg.MeshRange.Bits() > smallestMeshRange {
			return cfg, fmt.Errorf("--mesh-cidr %s: give a range of IPv4 of /%d or larger, or none", s.mesh, smallestMeshRange)
		}
	}
	seen := map[string]bool{}
	var wrong []string
	for n, name := range s.contexts {
		if seen[name] {
			return cfg, fmt.Errorf("--contexts: %s stands there twice", name)
		}
		seen[name] = true
		c, err := opts.kubernetes.open(name)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		i, err := flags.installer(cmd, opts, c, cfg.Show)
		if err != nil {
			return cfg, err
		}
		if i.Name = nameOf(name); len(s.names) > 0 {
			i.Name = s.names[n]
		}
		values, err := flags.valuesFor(i.Name)
		if err != nil {
			return cfg, err
		}
		cfg.Clusters, cfg.Values = append(cfg.Clusters, i), append(cfg.Values, values)
	}
	if len(wrong) > 0 {
		return cfg, fmt.Errorf("nothing was changed:\n  %s", strings.Join(wrong, "\n  "))
	}
	return cfg, nil
}

// connectInstalled joins all clusters with each other.
func connectInstalled(ctx context.Context, clusters []*install.Installer, show func(install.Event)) error {
	var ways []way
	for _, i := range clusters {
		ways = append(ways, wayTo(i.Name, i.Cluster))
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime(len(ways)))
	defer cancel()
	return connect(ctx, ways, func(s step) {
		kind := install.Done
		if s.Warning {
			kind = install.Note
		}
		show(install.Event{Cluster: s.Cluster, Kind: kind, Text: s.Step})
	})
}

// peersOf returns who is known to a cluster's API server, by id.
func peersOf(ctx context.Context, i *install.Installer) (map[int]string, error) {
	conn, err := dialCluster(ctx, i.Cluster)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	answer, err := ask(ctx, joinpb.NewMembershipClient(conn).Describe, &joinpb.DescribeRequest{})
	if err != nil {
		return nil, err
	}
	peers := map[int]string{}
	for _, m := range answer.Members {
		if m.Id != 0 {
			peers[int(m.Id)] = m.Name
		}
	}
	return peers, nil
}

// writeMembers shows what there is now.
func writeMembers(ctx context.Context, out io.Writer, members []*install.Member) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nCLUSTER\tID\tCONTEXT\tVERSION\tNODES\tPEERS")
	for _, m := range members {
		answer, err := askCluster(ctx, m.Cluster)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\n", answer.Cluster.Name, answer.Cluster.Id, m.Cluster.Context, answer.Cluster.Version, len(answer.Agents), orDash(peerNames(answer)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nA Service of the same namespace and name in several of them is shared by its annotation:\n  kubectl annotate service NAME causeway.io/global=true")
	return err
}

func peerNames(r *adminpb.StatusResponse) string {
	names := make([]string, 0, len(r.Peers))
	for _, p := range r.Peers {
		name := p.Name
		if !p.Ready {
			name += " (" + p.State + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
