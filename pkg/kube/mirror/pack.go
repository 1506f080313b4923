package mirror

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// Cluster is the label that says whose backends an object holds.
const Cluster = "causeway.io/source-cluster"

// pack makes the objects of a service, by name. What they are called and who is in
// which follows from the service alone, so that a restart finds all as it is.
func pack(m *service.Mirrored) map[string]*discoveryv1.EndpointSlice {
	objects := make(map[string]*discoveryv1.EndpointSlice)
	for i := range m.Sets {
		set := &m.Sets[i]
		// The name of a Service has 63 characters at most.
		stem := fmt.Sprintf("%s-causeway-%012x", m.Name.Name, service.Hash(fmt.Sprintf("%s %v %s", set.Cluster, set.IPv6, service.PortsKey(set.Ports)))>>16)
		hash := func(e service.Endpoint) uint64 { return service.Hash(e.Addresses[0].String()) }
		service.Divide(stem, set.Endpoints, hash, func(name string, endpoints []service.Endpoint) {
			objects[name] = object(m, set, name, endpoints)
		})
	}
	return objects
}

func object(m *service.Mirrored, set *service.MirrorSet, name string, endpoints []service.Endpoint) *discoveryv1.EndpointSlice {
	o := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Namespace, Name: name,
			Labels:          map[string]string{service.LabelManagedBy: service.ManagedBy, service.LabelServiceName: m.Name.Name, Cluster: set.Cluster},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: m.Name.Name, UID: types.UID(m.UID)}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       make([]discoveryv1.EndpointPort, 0, len(set.Ports)),
	}
	if m.Headless {
		o.Labels[corev1.IsHeadlessService] = "" // kube-proxy need not look at it
	}
	if set.IPv6 {
		o.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, p := range set.Ports {
		number, protocol, called := int32(p.Port), corev1.Protocol(p.Protocol), p.Name
		port := discoveryv1.EndpointPort{Name: &called, Protocol: &protocol, Port: &number}
		if p.AppProtocol != "" {
			port.AppProtocol = &p.AppProtocol
		}
		o.Ports = append(o.Ports, port)
	}
	for i := range endpoints {
		o.Endpoints = append(o.Endpoints, endpoint(&endpoints[i]))
	}
	return o
}

// endpoint has no node and no zone: those of another cluster may be called like ones
// of this, and would decide who may use it.
func endpoint(e *service.Endpoint) discoveryv1.Endpoint {
	c := e.Condition
	out := discoveryv1.Endpoint{
		Addresses:  []string{e.Addresses[0].String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &c.Ready, Serving: &c.Serving, Terminating: &c.Terminating},
	}
	if len(validation.IsDNS1123Label(e.Hostname)) == 0 { // a peer may say anything
		out.Hostname = &e.Hostname
	}
	return out
}

// reduce keeps of an object in the API what is compared with one that pack made.
func reduce(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	kept := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion,
			Labels: make(map[string]string), OwnerReferences: o.OwnerReferences,
		},
		AddressType: o.AddressType, Ports: o.Ports, Endpoints: o.Endpoints,
	}
	// Others may add labels of theirs.
	for _, key := range []string{service.LabelManagedBy, service.LabelServiceName, Cluster, corev1.IsHeadlessService} {
		if value, ok := o.Labels[key]; ok {
			kept.Labels[key] = value
		}
	}
	return kept
}

// same reports whether an object in the API is as one that pack made.
func same(have, want *discoveryv1.EndpointSlice) bool {
	owned := func(r metav1.OwnerReference) bool {
		return slices.ContainsFunc(have.OwnerReferences, func(h metav1.OwnerReference) bool { return h.UID == r.UID && h.Name == r.Name })
	}
	return have.AddressType == want.AddressType && owned(want.OwnerReferences[0]) &&
		equality.Semantic.DeepEqual(have.Labels, want.Labels) &&
		equality.Semantic.DeepEqual(have.Ports, want.Ports) && equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints)
}
