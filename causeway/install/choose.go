package install

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/causeway-mesh/causeway/causeway/release"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kube/ranges"
)

// name gives each member the name that it has, else the one that was chosen, else
// that of its context.
func name(members []*Member, cfg *UpConfig) (wrong []string) {
	taken := map[string]string{}
	for n, m := range members {
		context := m.Cluster.Context
		if len(cfg.Names) > n {
			m.Name = cfg.Names[n]
		}
		if m.Facts.Values != nil {
			has, _ := release.At(m.Facts.Values, "cluster", "name").(string)
			if len(cfg.Names) > n && cfg.Names[n] != has {
				wrong = append(wrong, fmt.Sprintf("context %s: the cluster is named %q already, not %q: a name stays", context, has, cfg.Names[n]))
			}
			m.Name = has
		}
		m.Installer.Name = m.Name
		if err := cluster.ValidateName(m.Name); err != nil {
			wrong = append(wrong, fmt.Sprintf("context %s: %q is no name for a cluster (%v): choose others with --names", context, m.Name, err))
		}
		if other, ok := taken[m.Name]; ok {
			wrong = append(wrong, fmt.Sprintf("contexts %s and %s: both clusters would be named %q: choose names with --names", other, context, m.Name))
		}
		taken[m.Name] = context
	}
	return wrong
}

// number gives each member the id that it has, else the one that was chosen, else
// the lowest that nobody in the mesh has: the same each time.
func number(ctx context.Context, members []*Member, cfg *UpConfig) (wrong []string) {
	taken := map[int]string{}
	for n, m := range members {
		if m.Facts.Values == nil {
			continue
		}
		m.ID = integer(release.At(m.Facts.Values, "cluster", "id"))
		if len(cfg.IDs) > n && cfg.IDs[n] != m.ID {
			wrong = append(wrong, fmt.Sprintf("%s: its id is %d already, not %d: an id stays", m.Name, m.ID, cfg.IDs[n]))
		}
		if other, ok := taken[m.ID]; ok && other != m.Name {
			wrong = append(wrong, fmt.Sprintf("%s and %s both have the id %d: every cluster of a mesh has an id of its own; uninstall one of them, and up gives it another", other, m.Name, m.ID))
		}
		taken[m.ID] = m.Name
		if m.Facts.Release != nil && m.Facts.Release.Deployed && cfg.Peers != nil {
			peers, err := cfg.Peers(ctx, m.Installer)
			if err != nil {
				m.say(Note, "its peers are not known, so their ids are not left out: %v", err)
			}
			for id, peer := range peers {
				if taken[id] == "" {
					taken[id] = peer
				}
			}
		}
	}
	for n, m := range members {
		if m.Facts.Values != nil {
			continue
		}
		if len(cfg.IDs) > n {
			m.ID = cfg.IDs[n]
		}
		for id := 1; m.ID == 0; id++ {
			// A cluster that was a member keeps its number, whoever saw it last.
			if taken[id] == "" || taken[id] == m.Name {
				m.ID = id
			}
		}
		if other, ok := taken[m.ID]; ok && other != m.Name {
			wrong = append(wrong, fmt.Sprintf("%s: the id %d is that of %s: choose another with --ids", m.Name, m.ID, other))
		}
		taken[m.ID] = m.Name
	}
	return wrong
}

// integer reads a number as YAML or JSON has it.
func integer(value any) int {
	switch n := value.(type) {
	case int:
		return n
	case float64:
		return int(n)
	case int64:
		return int(n)
	}
	n, _ := strconv.Atoi(fmt.Sprint(value)) // 0 for what is none
	return n
}

// overlaps returns where addresses of clusters would contradict each other.
func overlaps(members []*Member) (wrong []string) {
	for n, a := range members {
		mine, from := PodRanges(a.all(), a.Facts)
		for _, b := range members[n+1:] {
			theirs, fromB := PodRanges(b.all(), b.Facts)
			if x, y, found := overlap(mine, theirs); found {
				wrong = append(wrong, fmt.Sprintf("%s and %s have pods in the same range, %s (as %s says) and %s (as %s says): an address must be one pod's in the whole mesh. "+
					"Make one of the clusters anew with another range of pods: podSubnet in kubeadm's networking, networking.podSubnet in kind's configuration", a.Name, b.Name, x, from, y, fromB))
			}
		}
		mesh, err := netip.ParsePrefix(fmt.Sprint(release.At(a.all(), "cluster", "meshCIDR")))
		if err != nil {
			continue // none, or one that the chart judges
		}
		for _, b := range members {
			for what, used := range map[string][]netip.Prefix{"pods": first(PodRanges(b.all(), b.Facts)), "Services": b.Facts.Services, "nodes": hosts(b.Facts.Nodes)} {
				if _, y, found := overlap([]netip.Prefix{mesh}, used); found {
					wrong = append(wrong, fmt.Sprintf("%s of %s are in %s, which overlaps the mesh addresses that %s would get, %s: give another range with --mesh-cidr", what, b.Name, y, a.Name, mesh))
				}
			}
		}
	}
	slices.Sort(wrong)
	return wrong
}

func first(found []netip.Prefix, _ string) []netip.Prefix { return found }

// all returns the values as they will be.
func (m *Member) all() map[string]any {
	return release.Merge(m.Facts.Values, m.Values)
}

func hosts(addrs []netip.Addr) (out []netip.Prefix) {
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return ranges.Aggregate(out)
}

func overlap(a, b []netip.Prefix) (x, y netip.Prefix, found bool) {
	for _, x := range a {
		for _, y := range b {
			if x.Overlaps(y) {
				return x, y, true
			}
		}
	}
	return x, y, false
}
