package publish

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/source"
)

// podName names a Pod.
type podName struct{ namespace, name string }

// index holds the objects of the source, by what must be found when another
// object changes, and the set of what must be published anew. Its owner locks it.
type index struct {
	namespaces map[string]*corev1.Namespace
	nodes      map[string]*corev1.Node
	pods       map[podName]*corev1.Pod
	services   map[service.Name]*corev1.Service
	slices     map[merge.SliceName]*discoveryv1.EndpointSlice

	podsByNamespace map[string]set[podName]
	podsByNode      map[string]set[podName]
	podsByIP        map[netip.Addr][]podName // in the order in which they came
	servicesByNS    map[string]set[service.Name]
	slicesByService map[service.Name]set[merge.SliceName]

	// mesh are the mesh addresses of nodes; meshed says that those of all nodes
	// have been looked for once.
	mesh   map[string][]netip.Addr
	meshed bool

	dirty dirty
}

// dirty names what changed since it was last taken.
type dirty struct {
	nodes    set[string]
	services set[service.Name]
	slices   set[merge.SliceName]
	ips      set[netip.Addr]
	hosts    set[string] // nodes that came or went
}

func newDirty() dirty {
	return dirty{
		nodes: set[string]{}, services: set[service.Name]{}, slices: set[merge.SliceName]{}, ips: set[netip.Addr]{},
		hosts: set[string]{},
	}
}

type set[K comparable] map[K]struct{}

func (s set[K]) add(k K) { s[k] = struct{}{} }

// link adds value to the set under key; unlink takes it out and forgets an
// empty set.
func link[K, V comparable](m map[K]set[V], key K, value V) {
	if m[key] == nil {
		m[key] = set[V]{}
	}
	m[key].add(value)
}

func unlink[K, V comparable](m map[K]set[V], key K, value V) {
	delete(m[key], value)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

func newIndex() *index {
	return &index{
		namespaces:      map[string]*corev1.Namespace{},
		nodes:           map[string]*corev1.Node{},
		pods:            map[podName]*corev1.Pod{},
		services:        map[service.Name]*corev1.Service{},
		slices:          map[merge.SliceName]*discoveryv1.EndpointSlice{},
		podsByNamespace: map[string]set[podName]{},
		podsByNode:      map[string]set[podName]{},
		podsByIP:        map[netip.Addr][]podName{},
		servicesByNS:    map[string]set[service.Name]{},
		slicesByService: map[service.Name]set[merge.SliceName]{},
		mesh:            map[string][]netip.Addr{},
		dirty:           newDirty(),
	}
}

// apply takes in one change of the source.
func (x *index) apply(c source.Change) {
	switch o := c.Object.(type) {
	case *corev1.Namespace:
		x.namespace(o, c.Deleted)
	case *corev1.Node:
		x.node(o, c.Deleted)
	case *corev1.Pod:
		x.pod(o, c.Deleted)
	case *corev1.Service:
		x.service(o, c.Deleted)
	case *discoveryv1.EndpointSlice:
		x.slice(o, c.Deleted)
	}
}

// namespace marks all that is in it: its labels are part of every identity, its
// annotation of every service.
func (x *index) namespace(ns *corev1.Namespace, deleted bool) {
	store(x.namespaces, ns.Name, ns, deleted)
	for pod := range x.podsByNamespace[ns.Name] {
		x.markIPs(x.pods[pod])
	}
	for name := range x.servicesByNS[ns.Name] {
		x.dirty.services.add(name)
	}
}

func (x *index) node(n *corev1.Node, deleted bool) {
	x.host(n, deleted)
	store(x.nodes, n.Name, n, deleted)
	x.dirty.nodes.add(n.Name)
	for pod := range x.podsByNode[n.Name] {
		x.markIPs(x.pods[pod])
	}
}

func (x *index) pod(p *corev1.Pod, deleted bool) {
	name := podName{p.Namespace, p.Name}
	var had, has []netip.Addr
	if old := x.pods[name]; old != nil {
		x.markIPs(old)
		unlink(x.podsByNamespace, old.Namespace, name)
		unlink(x.podsByNode, old.Spec.NodeName, name)
		had = podIPs(old)
	}
	if !deleted {
		has = podIPs(p)
	}
	x.rehouse(name, had, has)
	store(x.pods, name, p, deleted)
	if deleted {
		return
	}
	link(x.podsByNamespace, p.Namespace, name)
	link(x.podsByNode, p.Spec.NodeName, name)
	x.markIPs(p)
}

// rehouse notes which addresses a Pod has; it keeps its place at those that it
// had before.
func (x *index) rehouse(name podName, had, has []netip.Addr) {
	for _, ip := range had {
		if slices.Contains(has, ip) {
			continue
		}
		rest := slices.DeleteFunc(x.podsByIP[ip], func(n podName) bool { return n == name })
		if len(rest) == 0 {
			delete(x.podsByIP, ip)
		} else {
			x.podsByIP[ip] = rest
		}
	}
	for _, ip := range has {
		if !slices.Contains(x.podsByIP[ip], name) {
			x.podsByIP[ip] = append(x.podsByIP[ip], name)
		}
	}
}

func (x *index) markIPs(p *corev1.Pod) {
	for _, ip := range podIPs(p) {
		x.dirty.ips.add(ip)
	}
}

// markAll marks every address.
func (x *index) markAll() {
	for ip := range x.podsByIP {
		x.dirty.ips.add(ip)
	}
}

func (x *index) service(s *corev1.Service, deleted bool) {
	name := service.Name{Namespace: s.Namespace, Name: s.Name}
	store(x.services, name, s, deleted)
	x.dirty.services.add(name)
	if deleted {
		unlink(x.servicesByNS, s.Namespace, name)
		return
	}
	link(x.servicesByNS, s.Namespace, name)
}

func (x *index) slice(s *discoveryv1.EndpointSlice, deleted bool) {
	name := merge.SliceName{Namespace: s.Namespace, Name: s.Name}
	// What holds other clusters' backends is not known here at all: neither peers nor
	// the own nodes are told of it.
	deleted = deleted || service.IsMirrored(s.Labels)
	if old := x.slices[name]; old != nil {
		x.unlinkSlice(name, old)
	}
	store(x.slices, name, s, deleted)
	x.dirty.slices.add(name)
	if owner := sliceOwner(s); owner.Name != "" && !service.IsMirrored(s.Labels) {
		x.dirty.services.add(owner)
		if !deleted {
			link(x.slicesByService, owner, name)
		}
	}
}

func (x *index) unlinkSlice(name merge.SliceName, old *discoveryv1.EndpointSlice) {
	owner := sliceOwner(old)
	unlink(x.slicesByService, owner, name)
	x.dirty.services.add(owner)
}

func sliceOwner(s *discoveryv1.EndpointSlice) service.Name {
	return service.Name{Namespace: s.Namespace, Name: s.Labels[service.LabelServiceName]}
}

func store[K comparable, V any](m map[K]V, key K, value V, deleted bool) {
	if deleted {
		delete(m, key)
		return
	}
	m[key] = value
}

// holder returns the Pod that holds an address, nil when none does, and the
// others that claim it. The one that was made first holds it until it goes or
// gives it back, so that nobody takes over an address by naming it. That does not
// depend on who was read first, so it is the same after a restart; where the
// source does not say when a Pod was made, it was last, and the first that came
// stays.
func (x *index) holder(ip netip.Addr) (holder *corev1.Pod, others []*corev1.Pod) {
	var candidates []*corev1.Pod
	for _, name := range x.podsByIP[ip] {
		if p := x.pods[name]; addressable(p) {
			candidates = append(candidates, p)
		}
	}
	if len(candidates) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(candidates, func(a, b *corev1.Pod) int {
		if a, b := a.CreationTimestamp.IsZero(), b.CreationTimestamp.IsZero(); a != b {
			if a {
				return 1
			}
			return -1
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return candidates[0], candidates[1:]
}

// hosts returns the addresses of a node, nil for one that is not known.
func (x *index) hosts(name string, o origin) []node.Address {
	n := x.nodes[name]
	if n == nil {
		return nil
	}
	return o.node(n).Addresses
}
