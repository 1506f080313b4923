package mesh

import (
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// probeAt says whose a probe pod is, and the address of the node that it is on.
type probeAt struct {
	cluster string
	host    netip.Addr
}

// labels tell probe pods by their identities, each of which is looked up once.
type labels struct {
	state  State
	known  map[identity.Number]bool
	failed error
}

func (l *labels) probe(n identity.Number) bool {
	is, ok := l.known[n]
	if ok || n.Reserved() {
		return is
	}
	i, err := l.state.Identity(n)
	if err != nil {
		l.failed = err
	}
	if i != nil {
		value, _ := i.Labels.Get(identity.SourceKubernetes + ":" + probe.PodLabel)
		is = value == "true"
	}
	l.known[n] = is
	return is
}

// probe notes whether an address is a probe pod's.
func (k *known) probe(a netip.Addr, o *endpoint.Owner, is bool) {
	had, was := k.probes[a]
	if !is {
		delete(k.probes, a)
		k.probed = k.probed || was
		return
	}
	now := probeAt{o.Cluster, o.HostIP}
	k.probes[a] = now
	k.probed = k.probed || !was || had != now
}

// peerProbes returns the addresses of the peers' probe pods, of each the least
// probe.MaxProbes: all nodes choose the same.
func (k *known) peerProbes() map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for a, at := range k.probes {
		if k.peers[at.cluster] != nil && at.cluster != k.cluster {
			out[at.cluster] = append(out[at.cluster], a)
		}
	}
	for name, all := range out {
		slices.SortFunc(all, netip.Addr.Compare)
		out[name] = all[:min(len(all), probe.MaxProbes)]
	}
	return out
}

// ownProbes returns the least address of a probe pod on this node of each family,
// IPv4 first.
func (k *known) ownProbes(self *route.Self) []netip.Addr {
	var all []netip.Addr
	for a, at := range k.probes {
		if at.cluster == k.cluster && at.host.IsValid() && slices.Contains(self.Underlay, at.host) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.CompactFunc(all, func(a, b netip.Addr) bool { return a.Is6() == b.Is6() })
}

// onNodes says on which nodes a peer's probe pods are.
func (k *known) onNodes(cluster string, all []netip.Addr) []probe.ProbePod {
	names := map[netip.Addr]string{}
	for _, n := range k.nodes {
		if n.Cluster == cluster {
			for _, a := range n.Addresses {
				if a.Type == node.InternalIP {
					names[a.IP] = n.Name
				}
			}
		}
	}
	var out []probe.ProbePod
	for _, a := range all {
		out = append(out, probe.ProbePod{Node: names[k.probes[a].host], Addr: a})
	}
	return out
}

// exceptProbes takes the probe pods of peers whose native way is tried out of the
// tunnel.
func (k *known) exceptProbes(routes []host.Route) []host.Route {
	at := map[netip.Prefix]int{}
	for i, r := range routes {
		at[r.Prefix] = i
	}
	for name, all := range k.peerProbes() {
		if p := k.peers[name]; p.Mode == route.Native || !p.Tries() {
			continue
		}
		for _, a := range all {
			prefix := netip.PrefixFrom(a, a.BitLen())
			if i, known := at[prefix]; known {
				routes[i].Mode = route.Native
			} else {
				routes = append(routes, host.Route{Prefix: prefix, Mode: route.Native})
			}
		}
	}
	return routes
}
