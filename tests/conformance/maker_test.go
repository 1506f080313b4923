package conformance

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"github.com/cilium/cilium/pkg/cidr"
	servicestore "github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	"github.com/cilium/cilium/pkg/identity"
	identitykey "github.com/cilium/cilium/pkg/identity/key"
	ciliumio "github.com/cilium/cilium/pkg/k8s/apis/cilium.io"
	slimcore "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/core/v1"
	slimdiscovery "github.com/cilium/cilium/pkg/k8s/slim/k8s/api/discovery/v1"
	"github.com/cilium/cilium/pkg/kvstore/store"
	"github.com/cilium/cilium/pkg/labels"
	"github.com/cilium/cilium/pkg/loadbalancer"
	"github.com/cilium/cilium/pkg/node/addressing"
	nodetypes "github.com/cilium/cilium/pkg/node/types"
	"github.com/cilium/cilium/pkg/source"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// maker makes values of Cilium's own types, of a cluster, as they can come from
// Kubernetes.
type maker struct {
	*rand.Rand
	cluster string
	id      uint32
}

// value returns the key of a value, less what is common to its kind, and the value.
func (m maker) value(k wire.Kind) (name string, value store.Key) {
	switch k {
	case wire.Identities:
		number := uint64(identity.GetMinimalAllocationIdentity(m.id)) + m.Uint64N(65000)
		return strconv.FormatUint(number, 10), m.identity()
	case wire.Nodes:
		n := m.node()
		return n.Name, n
	case wire.Addresses:
		pair := m.address()
		return pair.GetKeyName(), pair
	case wire.Services:
		s := m.service()
		return s.NamespaceServiceName().String(), s
	default:
		s := m.slice()
		return s.NamespacedName().String(), s
	}
}

func (m maker) maybe() bool { return m.IntN(2) == 0 }

// name is a name of a Kubernetes object.
func (m maker) name() string {
	return []string{"a", "web-0", "node-1.example.org", "x1-y2", "0"}[m.IntN(5)] + strconv.Itoa(m.IntN(1000))
}

func (m maker) namespace() string {
	return []string{"default", "kube-system", "shop"}[m.IntN(3)]
}

// text is a label's value, an annotation, or a host name.
func (m maker) text() string {
	return []string{"", "a", "A.b_c-d", "zone-a", "10"}[m.IntN(5)]
}

// labels never returns a map that is empty but there: JSON says the one as the
// other where Cilium reads, and we write the shorter.
func (m maker) labels() map[string]string {
	out := map[string]string{}
	for range m.IntN(4) {
		out[[]string{"app", "example.org/tier", "team", "io.cilium/x"}[m.IntN(4)]] = m.text()
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// All is in 100.64.0.0/10 and fd00:0:0:1::/64, which no other cluster uses; no range is so
// wide that no cluster would have it.
const (
	leastBits4 = 10
	leastBits6 = 64
)

func (m maker) ip(v6 bool) net.IP {
	if !v6 {
		return net.IPv4(100, byte(64+m.IntN(64)), byte(m.IntN(256)), byte(m.IntN(256))).To4()
	}
	ip := net.ParseIP("fd00:0:0:1::")
	for i := 8; i < 16; i++ {
		ip[i] = byte(m.IntN(256) * m.IntN(2))
	}
	return ip
}

func (m maker) prefix(v6 bool) *cidr.CIDR {
	bits := leastBits4 + m.IntN(32-leastBits4+1)
	if v6 {
		bits = leastBits6 + m.IntN(128-leastBits6+1)
	}
	_, network, err := net.ParseCIDR(fmt.Sprintf("%s/%d", m.ip(v6), bits))
	if err != nil {
		panic(err) // the text is made here
	}
	return cidr.NewCIDR(network)
}

func (m maker) identity() *identityKey {
	all := labels.Map2Labels(m.labels(), labels.LabelSourceK8s)
	for _, label := range []labels.Label{
		labels.NewLabel(ciliumio.PolicyLabelCluster, m.cluster, labels.LabelSourceK8s),
		labels.NewLabel(ciliumio.PolicyLabelServiceAccount, m.name(), labels.LabelSourceK8s),
		labels.NewLabel("kind", m.text(), labels.LabelSourceUnspec),
	} {
		all[label.Key] = label
	}
	return &identityKey{GlobalIdentity: identitykey.GlobalIdentity{LabelArray: all.LabelArray()}, cluster: m.cluster, id: m.id}
}

func (m maker) node() *nodetypes.Node {
	n := &nodetypes.Node{
		Name: m.name(), Cluster: m.cluster, ClusterID: m.id,
		Source: source.CustomResource, EncryptionKey: uint8(m.IntN(256)),
		Labels: m.labels(), Annotations: m.labels(), WireguardPubKey: m.text(), BootID: m.text(),
	}
	for range m.IntN(4) {
		kind := []addressing.AddressType{addressing.NodeInternalIP, addressing.NodeExternalIP, addressing.NodeCiliumInternalIP}[m.IntN(3)]
		n.IPAddresses = append(n.IPAddresses, nodetypes.Address{Type: kind, IP: m.ip(m.maybe())})
	}
	if m.maybe() {
		n.IPv4AllocCIDR, n.IPv4HealthIP, n.IPv4IngressIP = m.prefix(false), m.ip(false), m.ip(false)
		for range m.IntN(3) {
			n.IPv4SecondaryAllocCIDRs = append(n.IPv4SecondaryAllocCIDRs, m.prefix(false))
		}
	}
	if m.maybe() {
		n.IPv6AllocCIDR, n.IPv6HealthIP = m.prefix(true), m.ip(true)
		for range m.IntN(3) {
			n.IPv6SecondaryAllocCIDRs = append(n.IPv6SecondaryAllocCIDRs, m.prefix(true))
		}
	}
	return n
}

// address is one of a pod, or a range without one.
func (m maker) address() *identity.IPIdentityPair {
	v6 := m.maybe()
	pair := &identity.IPIdentityPair{
		IP: m.ip(v6), HostIP: m.ip(v6), ID: identity.NumericIdentity(m.Uint32N(1 << 24)), Key: uint8(m.IntN(256)), Metadata: m.text(),
	}
	if m.IntN(4) == 0 {
		network := m.prefix(v6)
		if ones, size := network.Mask.Size(); ones < size {
			pair.IP, pair.Mask, pair.HostIP = network.IP, network.Mask, nil
		}
		return pair
	}
	pair.K8sNamespace, pair.K8sPodName, pair.K8sServiceAccount = m.namespace(), m.name(), m.name()
	for range m.IntN(3) {
		pair.NamedPorts = append(pair.NamedPorts, identity.NamedPort{
			Name: m.name(), Port: uint16(1 + m.IntN(65535)), Protocol: []string{"TCP", "UDP", "SCTP"}[m.IntN(3)],
		})
	}
	return pair
}

func (m maker) service() *servicestore.ClusterService {
	s := servicestore.NewClusterService(m.name(), m.namespace())
	s.Cluster, s.ClusterID, s.IncludeExternal, s.Shared = m.cluster, m.id, m.maybe(), m.maybe()
	for key, value := range m.labels() {
		s.Labels[key], s.Selector[key] = value, value
	}
	for range m.IntN(3) {
		s.Frontends[m.ip(m.maybe()).String()] = m.ports()
	}
	for range m.IntN(5) {
		ip := m.ip(m.maybe()).String()
		s.Backends[ip] = m.ports()
		if m.maybe() {
			s.Hostnames[ip] = m.name()
		}
		if m.maybe() {
			zone := servicestore.BackendZone{Zone: "zone-" + strconv.Itoa(m.IntN(3)), ForZones: []servicestore.ForZone{}}
			for range m.IntN(3) {
				zone.ForZones = append(zone.ForZones, servicestore.ForZone{Name: "zone-" + strconv.Itoa(m.IntN(3))})
			}
			s.Zones[ip] = zone
		}
	}
	return &s
}

func (m maker) ports() servicestore.PortConfiguration {
	out := servicestore.PortConfiguration{}
	for i := range m.IntN(4) {
		name := []string{"", "http", "dns-udp", "alt"}[i]
		address := loadbalancer.NewL4Addr([]loadbalancer.L4Type{loadbalancer.TCP, loadbalancer.UDP, loadbalancer.SCTP}[m.IntN(3)], uint16(1+m.IntN(65535)))
		out[name] = &address
	}
	return out
}

func (m maker) slice() *endpointslice.ClusterEndpointSlice {
	v6 := m.maybe()
	s := &endpointslice.ClusterEndpointSlice{
		Cluster: m.cluster, ClusterID: m.id, Namespace: m.namespace(), Name: m.name(),
		Labels: map[string]string{slimdiscovery.LabelServiceName: m.name()}, Annotations: m.labels(),
		AddressType: slimdiscovery.AddressTypeIPv4,
	}
	if v6 {
		s.AddressType = slimdiscovery.AddressTypeIPv6
	}
	for i := range m.IntN(5) {
		s.Endpoints = append(s.Endpoints, m.endpoint(v6, i))
	}
	for i := range m.IntN(4) {
		name := []string{"alt", "dns", "http", "x"}[i] // sorted, as we write them
		protocol := []slimcore.Protocol{slimcore.ProtocolTCP, slimcore.ProtocolUDP, slimcore.ProtocolSCTP}[m.IntN(3)]
		port := slimdiscovery.EndpointPort{Name: &name, Protocol: &protocol}
		if number := int32(m.IntN(65536)); number > 0 {
			port.Port = &number
		}
		if m.maybe() {
			protocol := "kubernetes.io/h2c"
			port.AppProtocol = &protocol
		}
		s.Ports = append(s.Ports, port)
	}
	return s
}

// endpoint says all of its conditions: we do, and Cilium passes on what
// Kubernetes says, which is the same but for its length.
func (m maker) endpoint(v6 bool, order int) slimdiscovery.Endpoint {
	ip := m.ip(v6)
	ip[len(ip)/2] = byte(order) // addresses are in the order of the list: what stands before is the same
	if !v6 {
		ip[1] = 0
	}
	ready, serving, terminating := m.maybe(), m.maybe(), m.maybe()
	e := slimdiscovery.Endpoint{
		Addresses:  []string{ip.String()},
		Conditions: slimdiscovery.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
	}
	if m.maybe() {
		host, node, zone := m.name(), m.name(), "zone-a"
		e.Hostname, e.NodeName, e.Zone = &host, &node, &zone
		e.Hints = &slimdiscovery.EndpointHints{ForZones: []slimdiscovery.ForZone{{Name: "zone-a"}, {Name: "zone-b"}}}
	}
	return e
}
