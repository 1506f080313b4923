package merge

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
)

// Directory is who is who in the mesh, as nodes are told it.
type Directory struct {
	Nodes      map[node.Key]*node.Node
	Identities map[identity.Number]*identity.Identity
	Addresses  map[netip.Prefix]*endpoint.Owner
}

// Entry is who is behind one address.
type Entry struct {
	Prefix   netip.Prefix
	Cluster  string
	Identity identity.Number
	// Labels are what the identity stands for, "" when nobody has said so.
	Labels identity.Labels
	// Node is the name of the node that it runs on, or is; its address when no
	// node is known to have that.
	Node      string
	Namespace string
	Pod       string
}

// Directory returns a copy of who is who.
func (s *State) Directory() *Directory {
	d := &Directory{
		Nodes:      s.AllNodes(),
		Identities: make(map[identity.Number]*identity.Identity, len(s.identities.held)),
		Addresses:  make(map[netip.Prefix]*endpoint.Owner, len(s.addresses.held)),
	}
	for number, c := range s.identities.held {
		d.Identities[number] = &c.value
	}
	for prefix, c := range s.addresses.held {
		d.Addresses[prefix] = &c.value
	}
	return d
}

// hostKey is a node's address, which is its own in its cluster alone.
type hostKey struct {
	cluster string
	ip      netip.Addr
}

// Entries returns the addresses that the filter lets through, nodes' own among
// them, sorted.
func (d *Directory) Entries(f Filter) []Entry {
	hosts := map[hostKey]string{}
	for k, n := range d.Nodes {
		for _, a := range n.Addresses {
			hosts[hostKey{k.Cluster, a.IP}] = k.Name
		}
	}
	var out []Entry
	add := func(e Entry) {
		e.Labels = e.Identity.ReservedLabels()
		if i := d.Identities[e.Identity]; i != nil {
			e.Labels = i.Labels
		}
		if f.match(e) {
			out = append(out, e)
		}
	}
	for prefix, o := range d.Addresses {
		name, known := hosts[hostKey{o.Cluster, o.HostIP}]
		if !known && o.HostIP.IsValid() {
			name = o.HostIP.String()
		}
		add(Entry{Prefix: prefix, Cluster: o.Cluster, Identity: o.Identity, Node: name, Namespace: o.Namespace, Pod: o.Pod})
	}
	for h, name := range hosts {
		prefix := netip.PrefixFrom(h.ip, h.ip.BitLen())
		if d.Addresses[prefix] == nil {
			add(Entry{Prefix: prefix, Cluster: h.cluster, Identity: identity.RemoteNode, Node: name})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(a.Cluster, b.Cluster))
	})
	return out
}

// Filter lets through the entries that all of its fields allow; the zero value
// of a field allows all.
type Filter struct {
	// Within allows what lies in a prefix, and the ranges that the prefix lies in.
	Within    netip.Prefix
	Cluster   string
	Node      string
	Namespace string
	Pod       string
	Identity  identity.Number
	// Labels are key=value, of any source, or source:key=value.
	Labels []string
}

// ParseFilter returns the Filter for text as people write it; within is an
// address or a prefix.
func ParseFilter(f Filter, within string) (Filter, error) {
	if within != "" {
		p, err := netip.ParsePrefix(within)
		if err != nil {
			ip, wrong := netip.ParseAddr(within)
			if wrong != nil {
				return Filter{}, fmt.Errorf("%q is neither an address nor a prefix", within)
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		f.Within = p.Masked()
	}
	for _, l := range f.Labels {
		if key, _, ok := strings.Cut(l, "="); !ok || key == "" {
			return Filter{}, fmt.Errorf("label %q is not key=value", l)
		}
	}
	return f, nil
}

func (f Filter) match(e Entry) bool {
	allows := func(want, have string) bool { return want == "" || want == have }
	return (!f.Within.IsValid() || f.Within.Overlaps(e.Prefix)) &&
		allows(f.Cluster, e.Cluster) && allows(f.Node, e.Node) && allows(f.Namespace, e.Namespace) && allows(f.Pod, e.Pod) &&
		(f.Identity == identity.None || f.Identity == e.Identity) &&
		!slices.ContainsFunc(f.Labels, func(l string) bool { return !hasLabel(e.Labels, l) })
}

func hasLabel(labels identity.Labels, want string) bool {
	for key, value := range labels.All() {
		have := key + "=" + value
		if _, bare, _ := strings.Cut(have, ":"); have == want || bare == want {
			return true
		}
	}
	return false
}
