package hostile

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
)

// peer is a cluster of a case, and the model of what is to be believed of it. Of
// the one with id 7, pods are in 11.7.0.0/16 and fd11:7::/48, nodes in 12.7.0.0/16
// and fd12:7::/48, backends outside in 13.7.0.0/24, mesh addresses in 14.7.0.0/24.
type peer struct {
	*rogue.Peer
	of      string // the case
	id      int
	name    string
	address string
	file    string // more of its peer file
	pipes   pipes
	beats   int // signs of life

	// model are the values to be believed, by key; counts the refusals by reason.
	model  map[string][]byte
	counts map[trust.Reason]int
	grown  int
}

// v4 returns an address of a class, of which the first byte is that of the pods',
// nodes', external or mesh range.
func (p *peer) v4(class, third, fourth int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(class), byte(p.id), byte(third), byte(fourth)})
}

func (p *peer) pod(n int) netip.Addr { return p.v4(11, 1, n) }

func (p *peer) owns(ip netip.Addr) bool {
	if !ip.Is4() {
		return false
	}
	raw := ip.As4()
	return raw[0] >= 11 && raw[0] <= 14 && int(raw[1]) == p.id
}

func (p *peer) claims() string {
	return fmt.Sprintf("claims: {podCIDRs: [11.%[1]d.0.0/16, 'fd11:%[1]x::/48'], nodeCIDRs: [12.%[1]d.0.0/16, 'fd12:%[1]x::/48'], "+
		"externalCIDRs: [13.%[1]d.0.0/24], meshCIDR: [14.%[1]d.0.0/24]}\n", p.id)
}

func (p *peer) layout() wire.Layout { return wire.Layout{Cluster: p.name} }

// number is the n-th identity of the peer.
func (p *peer) number(n int) int { return p.id<<16 | 256 + n }

// must returns a value that its encoder made.
func must(value []byte, err error) []byte {
	if err != nil {
		panic(err) // of a value that the test itself made up
	}
	return value
}

func (p *peer) nodeValue(change func(*node.Node)) []byte {
	n := &node.Node{
		Cluster: p.name, ClusterID: cluster.ID(p.id), Name: "n1", Source: "custom-resource",
		Addresses: []node.Address{
			{Type: node.InternalIP, IP: p.v4(12, 0, 1)}, {Type: node.CiliumInternalIP, IP: p.v4(14, 0, 1)},
		},
		PodCIDRs: []netip.Prefix{netip.PrefixFrom(p.v4(11, 1, 0), 24)}, HealthIPs: []netip.Addr{p.pod(200)},
	}
	if change != nil {
		change(n)
	}
	return must(wire.EncodeNode(n))
}

func (p *peer) addressValue(ip netip.Addr, change func(*endpoint.Address)) []byte {
	a := &endpoint.Address{
		Cluster: p.name, Prefix: netip.PrefixFrom(ip, ip.BitLen()), HostIP: p.v4(12, 0, 1), Identity: identity.Number(p.number(0)),
		Namespace: "shop", Pod: "web",
	}
	if change != nil {
		change(a)
	}
	return must(wire.EncodeAddress(a))
}

func (p *peer) identityValue(n int) []byte {
	labels := identity.Labels(fmt.Sprintf("k8s:app=web-%d;k8s:io.cilium.k8s.policy.cluster=%s;k8s:io.kubernetes.pod.namespace=shop;", n, p.name))
	return must(wire.EncodeIdentity(&identity.Identity{Number: identity.Number(p.number(n)), Labels: labels}))
}

func ports(number uint16) []service.Port {
	return []service.Port{{Name: "tcp", Protocol: service.TCP, Port: number}}
}

func (p *peer) serviceValue(name string, backends ...netip.Addr) []byte {
	s := &service.Service{
		Name: service.Name{Namespace: "shop", Name: name}, Cluster: p.name, ClusterID: cluster.ID(p.id), Global: true, Shared: true,
		Labels: map[string]string{"app": "web"}, Frontends: []service.Frontend{{IP: netip.MustParseAddr("10.96.0.77"), Ports: ports(80)}},
	}
	for _, ip := range backends {
		s.Backends = append(s.Backends, service.Backend{IP: ip, Ports: ports(8080)})
	}
	return must(wire.EncodeService(s))
}

func (p *peer) sliceValue(name string, change func(*service.Slice), endpoints ...netip.Addr) []byte {
	s := &service.Slice{
		Cluster: p.name, ClusterID: cluster.ID(p.id), Namespace: "shop", Name: name, Service: "web",
		Labels: map[string]string{service.LabelServiceName: "web"}, Ports: ports(8080),
	}
	for _, ip := range endpoints {
		s.IPv6 = ip.Is6()
		s.Endpoints = append(s.Endpoints, service.Endpoint{Addresses: []netip.Addr{ip}, Condition: service.Condition{Ready: true, Serving: true}})
	}
	if change != nil {
		change(s)
	}
	return must(wire.EncodeSlice(s))
}

func (p *peer) addressKey(ip netip.Addr) string {
	return p.layout().AddressKey(netip.PrefixFrom(ip, ip.BitLen()))
}

func (p *peer) serviceKey(name string) string {
	return p.layout().ServiceKey(service.Name{Namespace: "shop", Name: name})
}

// base is what every peer has, and is to be believed.
func (p *peer) base() []rogue.Pair {
	l := p.layout()
	return []rogue.Pair{
		{Key: l.NodeKey("n1"), Value: p.nodeValue(nil)},
		{Key: l.IdentityKey(identity.Number(p.number(0))), Value: p.identityValue(0)},
		{Key: p.addressKey(p.pod(10)), Value: p.addressValue(p.pod(10), nil)},
		{Key: p.serviceKey("web"), Value: p.serviceValue("web", p.pod(10))},
		{Key: l.SliceKey("shop", "web-1"), Value: p.sliceValue("web-1", nil, p.pod(10))},
	}
}

// about is what the peer says about itself, with a new sign of life each time.
func (p *peer) about() []rogue.Pair {
	p.beats++
	c := cluster.Config{Name: p.name, ID: cluster.ID(p.id), Size: 255, SyncedCanaries: true, ExportMode: cluster.ExportServicesAndSlices}
	out := []rogue.Pair{
		{Key: wire.HeartbeatKey, Value: fmt.Appendf(nil, "2026-01-01T00:%02d:00Z", p.beats)},
		{Key: wire.ConfigKey(p.name), Value: must(wire.EncodeConfig(c))},
	}
	for _, kind := range wire.Kinds() {
		out = append(out, rogue.Pair{Key: p.layout().Marker(kind), Value: []byte("2026-01-01T00:00:00Z")})
	}
	return out
}

// says has the peer say something, and notes in the model what of it is to be
// believed, and how often it is refused.
func (p *peer) says(all ...saying) {
	var pairs []rogue.Pair
	for _, s := range all {
		pairs = append(pairs, rogue.Pair{Key: s.key, Value: s.value})
		p.learn(s)
	}
	p.Say(pairs...)
}

func (p *peer) learn(s saying) {
	if p.model == nil {
		p.model, p.counts = map[string][]byte{}, map[trust.Reason]int{}
	}
	switch {
	case s.why == unheard:
	case s.why != "" && s.why != trimmed:
		p.counts[s.why]++
	case s.value == nil:
		delete(p.model, s.key)
	default:
		p.model[s.key] = s.value
	}
	if s.why == trimmed {
		p.counts[s.loses]++
	}
}

// good are sayings of what is to be believed.
func good(pairs []rogue.Pair) []saying {
	var out []saying
	for _, p := range pairs {
		out = append(out, saying{key: p.Key, value: p.Value})
	}
	return out
}

// expected is what the model comes to: values, identities of addresses, in the
// kernel those without the nodes' underlay addresses, which nothing of the mesh
// comes from or goes to, and backends of shop/web.
type expected struct {
	cache             map[string]string
	addresses, kernel map[netip.Addr]uint32
	backends          map[netip.Addr]bool
}

func (p *peer) expect() expected {
	e := expected{map[string]string{}, map[netip.Addr]uint32{}, nil, map[netip.Addr]bool{}}
	var underlay []netip.Addr
	l := p.layout()
	_, shared := p.model[p.serviceKey("web")]
	sliced := false
	for key, value := range p.model {
		e.cache[key] = string(value)
		switch {
		case strings.HasPrefix(key, l.Prefix(wire.Nodes)):
			n, err := l.DecodeNode(key, value)
			if err != nil {
				panic(err)
			}
			for _, a := range n.Addresses {
				if a.Type == node.InternalIP {
					underlay = append(underlay, a.IP)
				}
				if e.addresses[a.IP] == 0 {
					e.addresses[a.IP] = uint32(identity.RemoteNode)
				}
			}
		case strings.HasPrefix(key, l.Prefix(wire.Addresses)):
			a, err := l.DecodeAddress(key, value)
			if err != nil {
				panic(err)
			}
			if a.Identity == identity.Host {
				a.Identity = identity.RemoteNode
			}
			if a.Prefix.IsSingleIP() {
				e.addresses[a.Prefix.Addr()] = uint32(a.Identity)
			}
		case strings.HasPrefix(key, l.Prefix(wire.Slices)) && shared:
			s, err := l.DecodeSlice(key, value)
			if err != nil {
				panic(err)
			}
			sliced = true
			for _, end := range s.Endpoints {
				for _, ip := range end.Addresses {
					e.backends[ip] = true
				}
			}
		}
	}
	if shared && !sliced {
		s, err := l.DecodeService(p.serviceKey("web"), p.model[p.serviceKey("web")])
		if err != nil {
			panic(err)
		}
		for _, b := range s.Backends {
			e.backends[b.IP] = true
		}
	}
	e.kernel = maps.Clone(e.addresses)
	for _, ip := range underlay {
		delete(e.kernel, ip)
	}
	return e
}

// countsMatch says how the refusals that were counted differ from those that were
// to be: at least as many of each reason, since what is refused is judged anew now
// and then, and none of another.
func (p *peer) countsMatch(got map[string]int) error {
	want := maps.Clone(p.counts)
	for reason, n := range got {
		if n > 0 && want[trust.Reason(reason)] == 0 {
			return fmt.Errorf("%d are refused for %s, want %v", n, reason, want)
		}
	}
	for reason, n := range want {
		if got[string(reason)] < n {
			return fmt.Errorf("refused are %v, want %v and more", got, want)
		}
	}
	return nil
}

// grow says something more that is to be believed.
func (p *peer) grow() {
	p.grown++
	ip := p.v4(11, 3, p.grown)
	p.says(saying{key: p.addressKey(ip), value: p.addressValue(ip, nil)})
}
