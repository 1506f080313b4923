// Package mesh generates what the clusters of a large mesh publish. All is a
// function of numbers: the same Spec gives the same keys and values.
package mesh

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"strconv"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// The ports of every service and of every backend.
const (
	Port       = 80
	TargetPort = 8080
	portName   = "http"
)

// sliceEndpoints is how many endpoints Kubernetes puts into a slice.
const sliceEndpoints = 100

// Spec says how large each of the remote clusters is.
type Spec struct {
	Clusters   int
	Nodes      int
	Identities int
	Addresses  int
	Services   int
	// Backends are those of one service; the first Addresses are theirs as far
	// as there are any.
	Backends int
}

// Keys is how many keys all clusters have, without configs and markers.
func (s Spec) Keys() int {
	return s.Clusters * (s.Nodes + s.Identities + s.Addresses + s.Services*(1+s.Slices()))
}

// Slices is how many endpoint slices a service has.
func (s Spec) Slices() int { return (s.Backends + sliceEndpoints - 1) / sliceEndpoints }

// TotalServices is how many services all clusters have; none is in two.
func (s Spec) TotalServices() int { return s.Clusters * s.Services }

// TotalBackends is how many backends all services have.
func (s Spec) TotalBackends() int { return s.TotalServices() * s.Backends }

// Remote is one of the clusters. Its ids begin at 1.
type Remote struct {
	Spec
	// Index is from 0 to Clusters - 1.
	Index int
	// Cached puts everything under the cache prefixes, as a hub of many does.
	Cached bool
}

// Name returns the cluster's name.
func (r Remote) Name() string { return "c" + strconv.Itoa(r.Index+1) }

// ID returns the cluster's number.
func (r Remote) ID() cluster.ID { return cluster.ID(r.Index + 1) }

// Layout says where the cluster's keys stand.
func (r Remote) Layout() wire.Layout { return wire.Layout{Cluster: r.Name(), Cached: r.Cached} }

// State yields all keys and values in the order in which they are written, but
// for config and markers. An error ends it; it comes with an empty key.
func (r Remote) State() iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		give := func(key string, value []byte, err error) bool {
			if err != nil {
				yield(Pair{}, err)
				return false
			}
			return yield(Pair{key, value}, nil)
		}
		for _, kind := range []struct {
			count int
			make  func(int) (string, []byte, error)
		}{
			{r.Identities, r.IdentityPair},
			{r.Nodes, func(i int) (string, []byte, error) { return r.NodePair(i, 0) }},
			{r.Addresses, r.AddressPair},
			{r.Services, r.servicePair},
			{r.Services * r.Slices(), r.slicePair},
		} {
			for i := range kind.count {
				if !give(kind.make(i)) {
					return
				}
			}
		}
	}
}

// Pair is a key and what it says.
type Pair struct {
	Key   string
	Value []byte
}

// Config returns the config that makes readers begin; it comes last.
func (r Remote) Config() (Pair, error) {
	exports := false
	value, err := wire.EncodeConfig(cluster.Config{
		Name: r.Name(), ID: r.ID(), Size: cluster.Size255, SyncedCanaries: true, Cached: r.Cached,
		ServiceExports: &exports, ExportMode: cluster.ExportServicesAndSlices,
	})
	return Pair{wire.ConfigKey(r.Name()), value}, err
}

// IdentityPair is the i-th identity; one from Identities on came later.
func (r Remote) IdentityPair(i int) (string, []byte, error) {
	labels, err := identity.ParseLabels(fmt.Sprintf(
		"k8s:app=app-%d;k8s:io.cilium.k8s.policy.cluster=%s;k8s:io.cilium.k8s.policy.serviceaccount=default;"+
			"k8s:io.kubernetes.pod.namespace=%s;k8s:tier=backend;", i, r.Name(), namespace(i)))
	if err != nil {
		return "", nil, err
	}
	n := r.identity(i)
	value, err := wire.EncodeIdentity(&identity.Identity{Number: n, Labels: labels})
	return r.Layout().IdentityKey(n), value, err
}

func (r Remote) identity(i int) identity.Number {
	first, _ := identity.Range(r.ID(), cluster.Size255)
	return first + identity.Number(i)
}

// NodePair is the i-th node; its versions differ in a label.
func (r Remote) NodePair(i, n int) (string, []byte, error) {
	v := &node.Node{
		Cluster: r.Name(), ClusterID: r.ID(), Name: nodeName(i), Source: "custom-resource",
		Addresses: []node.Address{{Type: node.InternalIP, IP: r.host(i)}},
		PodCIDRs:  []netip.Prefix{netip.PrefixFrom(r.address(i*256), 24).Masked()},
		Labels:    map[string]string{"topology.kubernetes.io/zone": "zone-" + strconv.Itoa(i%3), "version": strconv.Itoa(n)},
	}
	value, err := wire.EncodeNode(v)
	return r.Layout().NodeKey(v.Name), value, err
}

// AddressPair is the i-th address. One from Addresses on is of a workload that
// came later.
func (r Remote) AddressPair(i int) (string, []byte, error) {
	ip := r.address(i)
	a := &endpoint.Address{
		Cluster: r.Name(), Prefix: netip.PrefixFrom(ip, 32), HostIP: r.host(i % max(r.Nodes, 1)),
		Identity: r.identity(i % max(r.Identities, 1)), Namespace: namespace(i), Pod: podName(i), ServiceAccount: "default",
	}
	value, err := wire.EncodeAddress(a)
	return r.Layout().AddressKey(a.Prefix), value, err
}

// ServiceName returns the name of the i-th service.
func (r Remote) ServiceName(i int) service.Name {
	n := r.Index*r.Services + i
	return service.Name{Namespace: namespace(n), Name: "service-" + strconv.Itoa(n)}
}

// Frontend returns the address that the own cluster's clients dial for the i-th
// service of this cluster.
func (r Remote) Frontend(i int) netip.AddrPort {
	return netip.AddrPortFrom(offset("172.16.0.0", r.Index*r.Services+i+1), Port)
}

func (r Remote) servicePair(i int) (string, []byte, error) {
	s := &service.Service{
		Name: r.ServiceName(i), Cluster: r.Name(), ClusterID: r.ID(), Global: true, Shared: true,
		Frontends: []service.Frontend{{IP: offset("172.32.0.0", i+1), Ports: []service.Port{{Name: portName, Protocol: service.TCP, Port: Port}}}},
		Labels:    map[string]string{"app": "app-" + strconv.Itoa(i)},
		Selector:  map[string]string{"app": "app-" + strconv.Itoa(i)},
	}
	// The value of a service with thousands of backends does not fit into etcd;
	// publishers leave them to the slices.
	if r.Backends <= sliceEndpoints {
		for j := range r.Backends {
			s.Backends = append(s.Backends, service.Backend{IP: r.address(i*r.Backends + j), Ports: targetPorts()})
		}
	}
	s.Sort()
	value, err := wire.EncodeService(s)
	return r.Layout().ServiceKey(s.Name), value, err
}

func (r Remote) slicePair(n int) (string, []byte, error) {
	return r.SlicePair(n/r.Slices(), n%r.Slices(), 0)
}

// SlicePair is a part of the backends of the i-th service. In its version n > 0
// the first endpoint was replaced n times, by one that no other slice or
// version has.
func (r Remote) SlicePair(i, part, n int) (string, []byte, error) {
	name := r.ServiceName(i)
	s := &service.Slice{
		Cluster: r.Name(), ClusterID: r.ID(), Namespace: name.Namespace, Name: fmt.Sprintf("%s-%d", name.Name, part),
		Service: name.Name, Labels: map[string]string{service.LabelServiceName: name.Name}, Ports: targetPorts(),
	}
	for j := part * sliceEndpoints; j < min((part+1)*sliceEndpoints, r.Backends); j++ {
		k := i*r.Backends + j
		ip := r.address(k)
		if n > 0 && j == part*sliceEndpoints {
			ip = r.replacement(i*r.Slices()+part, n)
		}
		s.Endpoints = append(s.Endpoints, service.Endpoint{
			Addresses: []netip.Addr{ip}, Condition: service.Condition{Ready: true, Serving: true},
			Node: nodeName(k % max(r.Nodes, 1)), TargetKind: "Pod", TargetNamespace: name.Namespace, TargetName: podName(k),
		})
	}
	s.Sort()
	value, err := wire.EncodeSlice(s)
	return r.Layout().SliceKey(name.Namespace, s.Name), value, err
}

func targetPorts() []service.Port {
	return []service.Port{{Name: portName, Protocol: service.TCP, Port: TargetPort}}
}

// address is the i-th of the cluster's, of which it has as many as workloads
// and as much again.
func (r Remote) address(i int) netip.Addr { return offset("10.0.0.0", r.Index*r.stride()+i) }

func (r Remote) stride() int { return 2 * max(r.Addresses, r.Services*r.Backends, 256*r.Nodes) }

// Claims are the ranges of the cluster's own addresses, of the hosts of all, and of
// what replaces endpoints, which all have in common.
func (r Remote) Claims() (pods, hosts, external []string) {
	first, left := r.Index*r.stride(), r.stride()
	for left > 0 {
		size := 1
		for size*2 <= left && (first&(size*2-1)) == 0 && size < 1<<24 {
			size *= 2
		}
		p := netip.PrefixFrom(offset("10.0.0.0", first), 33-bits.Len(uint(size)))
		pods = append(pods, p.String())
		first, left = first+size, left-size
	}
	return pods, []string{"192.168.0.0/16"}, []string{"64.0.0.0/8", "65.0.0.0/8", "66.0.0.0/8", "67.0.0.0/8"}
}

// replacement is an address for version n of a slice, different for all slices
// for many versions.
func (r Remote) replacement(slice, n int) netip.Addr {
	all := r.TotalServices() * r.Slices()
	return offset("64.0.0.0", (r.Index*r.Services*r.Slices()+slice+n*all)%(1<<26))
}

func (r Remote) host(i int) netip.Addr { return offset("192.168.0.0", r.Index*r.Nodes+i+1) }

func offset(base string, n int) netip.Addr {
	b := netip.MustParseAddr(base).As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}

func namespace(i int) string { return "team-" + strconv.Itoa(i%100) }
func nodeName(i int) string  { return "node-" + strconv.Itoa(i) }
func podName(i int) string   { return "app-" + strconv.Itoa(i) + "-7d4b9c6f5d-x2x9z" }
