package install

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/release"
)

// UpConfig says what Up makes of clusters.
type UpConfig struct {
	Clusters []*Installer
	// Names and IDs are those that somebody chose, in the order of Clusters; none are
	// chosen here.
	Names []string
	IDs   []int
	// MeshRange is divided among the clusters by their ids; the zero Prefix for none.
	MeshRange netip.Prefix
	// Values are laid over those that are chosen here, or that clusters have; one for
	// each of Clusters.
	Values []map[string]any
	DryRun bool
	// Show is told what is about all clusters.
	Show func(Event)
	// SkipPreflight installs without a look at the nodes.
	SkipPreflight bool
	// Peers returns the ids that a cluster's API server knows, with their names.
	Peers func(context.Context, *Installer) (map[int]string, error)
	// Connect joins all clusters, by their API servers.
	Connect func(context.Context, []*Installer) error
}

// Member is a cluster that Up works on, as it is to be.
type Member struct {
	*Installer
	Facts  *Facts
	Name   string
	ID     int
	Values map[string]any
	notes  []string
}

// addressWait is how long a load balancer may take to give an address, before the
// nodes' own are taken.
const addressWait = time.Minute

// Up puts Causeway into all clusters where it is missing, brings the others to this
// version, joins all, and returns once all is ready. Done again, it changes nothing.
func Up(ctx context.Context, cfg UpConfig) ([]*Member, error) {
	members, err := plan(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		for _, note := range m.notes {
			m.say(Note, "%s", note)
		}
	}
	if cfg.DryRun {
		return members, dryRun(ctx, &cfg, members)
	}
	if !cfg.SkipPreflight {
		if err := lookAll(ctx, members); err != nil {
			return members, err
		}
	}
	if err := each(members, func(m *Member) error { return m.bring(ctx) }); err != nil {
		return members, err
	}
	if len(members) > 1 {
		if err := cfg.Connect(ctx, cfg.Clusters); err != nil {
			return members, err
		}
	}
	return members, each(members, func(m *Member) error { return m.Ready(ctx) })
}

// dryRun says what Up would do.
func dryRun(ctx context.Context, cfg *UpConfig, members []*Member) error {
	err := each(members, func(m *Member) error { return m.Install(ctx, Options{Values: m.Values, DryRun: true}) })
	if err == nil && len(members) > 1 {
		names := make([]string, 0, len(members))
		for _, m := range members {
			names = append(names, m.Name)
		}
		cfg.Show(Event{Kind: Note, Text: "would join what is not joined yet of " + strings.Join(names, ", ")})
	}
	return err
}

// each runs fn for all at the same time; one that fails keeps no other up.
func each[T any](clusters []T, fn func(T) error) error {
	errs := make([]error, len(clusters))
	var group errgroup.Group
	for n, c := range clusters {
		group.Go(func() error {
			errs[n] = fn(c)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// plan looks at all clusters and says what each is to be, or all that speaks against.
func plan(ctx context.Context, cfg *UpConfig) ([]*Member, error) {
	members := make([]*Member, len(cfg.Clusters))
	wrong := make([][]string, len(cfg.Clusters))
	var group errgroup.Group
	for n, i := range cfg.Clusters {
		group.Go(func() error {
			members[n] = &Member{Installer: i, Name: i.Name}
			members[n].Facts, wrong[n] = i.Inspect(ctx)
			return nil
		})
	}
	_ = group.Wait()
	var all []string
	for _, some := range wrong {
		all = append(all, some...)
	}
	if len(all) == 0 { // else too little is known
		all = append(all, name(members, cfg)...)
		all = append(all, number(ctx, members, cfg)...)
	}
	if len(all) == 0 {
		for n, m := range members {
			m.choose(cfg.Values[n], cfg.MeshRange)
		}
		all = append(all, overlaps(members)...)
	}
	if len(all) > 0 {
		return nil, fmt.Errorf("nothing was changed:\n  %s", strings.Join(all, "\n  "))
	}
	cfg.Show(Event{Kind: Done, Text: fmt.Sprintf("%d %s looked at: nothing speaks against it", len(members), plural(len(members), "cluster"))})
	return members, nil
}

// choose says what the values of a cluster are to be.
func (m *Member) choose(given map[string]any, mesh netip.Prefix) {
	if m.Facts.Values != nil {
		m.Values = given
		if m.Facts.Release == nil {
			m.notes = append(m.notes, "it was installed before, and its data stayed: it gets the values that it had then")
		}
		return
	}
	values := release.Merge(release.Put(m.Name, "cluster", "name"), release.Put(m.ID, "cluster", "id"))
	if mesh.IsValid() {
		values = release.Merge(values, release.Put(part(mesh, m.ID).String(), "cluster", "meshCIDR"))
	}
	gateway := "LoadBalancer"
	if !m.Facts.LoadBalancer {
		gateway = "NodePort"
	}
	values = release.Merge(values, release.Put(gateway, "gateway", "type"))
	if !m.Facts.StorageClass && release.At(given, "etcd", "storageClass") == nil {
		values = release.Merge(values, release.Put("memory", "etcd", "mode"))
	}
	// What is found is said to the cluster itself, which then names it to the others.
	if len(m.Facts.Pods) > 0 && m.Facts.From != fromNodes {
		values = release.Merge(values, release.Put(texts(m.Facts.Pods), "cluster", "podCIDRs"))
	}
	if len(m.Facts.Services) > 0 {
		values = release.Merge(values, release.Put(texts(m.Facts.Services), "cluster", "reservedCIDRs"))
	}
	m.Values = release.Merge(values, given)
	if gateway == "NodePort" && release.At(m.Values, "gateway", "type") == gateway {
		m.notes = append(m.notes, "nothing gives load balancers here: others reach the gateway by a port of the nodes (--set gateway.type=LoadBalancer for another way)")
	}
	if !m.Facts.StorageClass && release.At(m.Values, "etcd", "mode") == "memory" {
		m.notes = append(m.notes, "no StorageClass is the default: etcd is in memory, and what must outlive a pod, the authority's key among it, is kept in the Secret causeway-state (--set etcd.storageClass=NAME for a volume)")
	}
}

// texts are ranges as values of the chart.
func texts(ranges []netip.Prefix) []any {
	out := make([]any, 0, len(ranges))
	for _, p := range ranges {
		out = append(out, p.String())
	}
	return out
}

// partBits is log2 of the parts that the mesh range has: one for each id.
const partBits = 9

// part returns the part of a range that belongs to an id.
func part(whole netip.Prefix, id int) netip.Prefix {
	bits := whole.Bits() + partBits
	bytes := whole.Masked().Addr().AsSlice()
	for bit := range partBits {
		if id>>(partBits-1-bit)&1 == 1 {
			at := whole.Bits() + bit
			bytes[at/8] |= 0x80 >> (at % 8)
		}
	}
	addr, _ := netip.AddrFromSlice(bytes) // of the length that it had
	return netip.PrefixFrom(addr, bits)
}

// bring installs or upgrades, and falls back to the nodes' ports where no load
// balancer gives an address.
func (m *Member) bring(ctx context.Context) error {
	if err := m.Install(ctx, Options{Values: m.Values}); err != nil {
		return err
	}
	_, kind, err := m.gateway(ctx)
	if err != nil || kind != corev1.ServiceTypeLoadBalancer {
		return err
	}
	address := ""
	err = m.until(ctx, min(addressWait, m.cfg.Timeout), "address of the load balancer", func(ctx context.Context) (bool, string, error) {
		address, _, err = m.gateway(ctx)
		return err == nil && address != "", "the Service " + m.Cluster.Namespace + "/clustermesh-apiserver has none yet", err
	})
	if err == nil {
		m.say(Done, "others reach the gateway at %s:%d", address, access.GatewayPort)
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	m.say(Note, "no load balancer has given the gateway an address within %s: a port of the nodes is taken in its place", addressWait)
	return m.Install(ctx, Options{Values: release.Put("NodePort", "gateway", "type")})
}
