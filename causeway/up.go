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
	var contexts, names []string
	var ids []int
	var mesh string
	cmd := &cobra.Command{
		Use:   "up --contexts NAME,NAME...",
		Short: "Put Causeway into several Kubernetes clusters and join them, in one step",
		Long: `Put Causeway into several Kubernetes clusters and join them all with each other. It
looks at all clusters first, and says at once all that speaks against it. Then it installs
where Causeway is missing, upgrades where another version is, joins what is not joined, and
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
			return reportError(cmd, opts, up(cmd, opts, &flags, contexts, names, ids, mesh))
		},
	}
	f := cmd.Flags()
	flags.flags(f)
	flags.valueFlags(f)
	opts.kubernetes.contextsFlag(f, &contexts)
	f.StringSliceVar(&names, "names", nil, "the clusters' `names` in the mesh, in the order of --contexts (default: the contexts')")
	f.IntSliceVar(&ids, "ids", nil, "their `numbers`, in the same order (default: those that they have, else the lowest that are free)")
	f.StringVar(&mesh, "mesh-cidr", meshRange, "`range` that no cluster uses, of which each gets the part of its id for its nodes' mesh addresses; none where the network has routes between all pods")
	return cmd
}

func up(cmd *cobra.Command, opts *options, flags *installFlags, contexts, names []string, ids []int, mesh string) error {
	switch {
	case len(contexts) == 0:
		return errors.New("give --contexts: the names of the clusters' contexts, with commas")
	case len(names) > 0 && len(names) != len(contexts):
		return errors.New("--names: give one for each of --contexts")
	case len(ids) > 0 && len(ids) != len(contexts):
		return errors.New("--ids: give one for each of --contexts")
	}
	cfg := install.UpConfig{Names: names, IDs: ids, DryRun: flags.dryRun, Show: showEvents(cmd.OutOrStdout(), opts), Peers: peersOf}
	if mesh != "none" {
		var err error
		if cfg.MeshRange, err = netip.ParsePrefix(mesh); err != nil || !cfg.MeshRange.Addr().Is4() || cfg.MeshRange.Bits() > smallestMeshRange {
			return fmt.Errorf("--mesh-cidr %s: give a range of IPv4 of /%d or larger, or none", mesh, smallestMeshRange)
		}
	}
	seen := map[string]bool{}
	var wrong []string
	for n, name := range contexts {
		if seen[name] {
			return fmt.Errorf("--contexts: %s stands there twice", name)
		}
		seen[name] = true
		c, err := opts.kubernetes.open(name)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		i, err := flags.installer(cmd, opts, c, cfg.Show)
		if err != nil {
			return err
		}
		if i.Name = nameOf(name); len(names) > 0 {
			i.Name = names[n]
		}
		values, err := flags.valuesFor(i.Name)
		if err != nil {
			return err
		}
		cfg.Clusters, cfg.Values = append(cfg.Clusters, i), append(cfg.Values, values)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("nothing was changed:\n  %s", strings.Join(wrong, "\n  "))
	}
	cfg.Connect = func(ctx context.Context, clusters []*install.Installer) error {
		return connectInstalled(ctx, clusters, cfg.Show)
	}
	members, err := install.Up(cmd.Context(), cfg)
	if err != nil || flags.dryRun || opts.output == "json" {
		return err
	}
	return writeMembers(cmd.Context(), cmd.OutOrStdout(), members)
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
