package source

import (
	"maps"
	"net/netip"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// reduce returns an object with nothing but the fields that a mesh looks at, and
// with the defaults that an API server fills in: what every source gives is its
// result. It takes parts of o, which must not be used afterwards.
func reduce(o Object) Object {
	switch o := o.(type) {
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: reduceMeta(&o.ObjectMeta, o.Annotations)}
	case *corev1.Node:
		return reduceNode(o)
	case *corev1.Pod:
		return reducePod(o)
	case *corev1.Service:
		return reduceService(o)
	case *discoveryv1.EndpointSlice:
		return reduceSlice(o)
	}
	return o
}

// reduceMeta keeps resourceVersion for who follows an API server; what a sink is
// given has none.
func reduceMeta(m *metav1.ObjectMeta, annotations map[string]string) metav1.ObjectMeta {
	maps.DeleteFunc(annotations, func(key, _ string) bool {
		return key == corev1.LastAppliedConfigAnnotation || key == corev1.EndpointsLastChangeTriggerTime
	})
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: intern(m.Namespace), UID: m.UID, ResourceVersion: m.ResourceVersion,
		Labels: internAll(m.Labels), Annotations: annotations,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
}

// intern returns the one copy of a text that tens of thousands of objects have in
// common: a label, a node's name.
func intern(text string) string { return unique.Make(text).Value() }

func internAll(labels map[string]string) map[string]string {
	if labels == nil {
		return nil
	}
	interned := make(map[string]string, len(labels))
	for key, value := range labels {
		interned[intern(key)] = intern(value)
	}
	return interned
}

func reduceNode(o *corev1.Node) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: reduceMeta(&o.ObjectMeta, nil),
		Spec:       corev1.NodeSpec{PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs},
		Status: corev1.NodeStatus{
			Addresses: o.Status.Addresses,
			NodeInfo:  corev1.NodeSystemInfo{BootID: o.Status.NodeInfo.BootID},
		},
	}
	for i := range o.Status.Conditions {
		if c := &o.Status.Conditions[i]; c.Type == corev1.NodeReady {
			n.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	return n
}

func reducePod(o *corev1.Pod) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: reduceMeta(&o.ObjectMeta, nil),
		Spec: corev1.PodSpec{
			NodeName: intern(o.Spec.NodeName), ServiceAccountName: intern(o.Spec.ServiceAccountName), HostNetwork: o.Spec.HostNetwork,
			Hostname: o.Spec.Hostname, Subdomain: o.Spec.Subdomain,
			Containers: reduceContainers(o.Spec.Containers), InitContainers: reduceContainers(o.Spec.InitContainers),
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodPhase(intern(string(o.Status.Phase))), HostIP: intern(o.Status.HostIP), HostIPs: o.Status.HostIPs, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs,
		},
	}
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = "default"
	}
	if len(p.Status.PodIPs) == 0 && p.Status.PodIP != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	if len(p.Status.HostIPs) == 0 && p.Status.HostIP != "" {
		p.Status.HostIPs = []corev1.HostIP{{IP: p.Status.HostIP}}
	}
	for i := range o.Status.Conditions {
		if c := &o.Status.Conditions[i]; c.Type == corev1.PodReady {
			p.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return p
}

// reduceContainers keeps those that have ports, which are all that is asked of them.
func reduceContainers(containers []corev1.Container) []corev1.Container {
	var found []corev1.Container
	for i := range containers {
		c := &containers[i]
		if len(c.Ports) == 0 {
			continue
		}
		for j := range c.Ports {
			if c.Ports[j].Protocol == "" {
				c.Ports[j].Protocol = corev1.ProtocolTCP
			}
		}
		found = append(found, corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return found
}

func reduceService(o *corev1.Service) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: reduceMeta(&o.ObjectMeta, o.Annotations), Spec: o.Spec,
		Status: corev1.ServiceStatus{LoadBalancer: o.Status.LoadBalancer},
	}
	spec := &s.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if len(spec.IPFamilies) == 0 {
		for _, text := range spec.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil {
				spec.IPFamilies = append(spec.IPFamilies, familyOf(ip))
			}
		}
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	return s
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func reduceSlice(o *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: reduceMeta(&o.ObjectMeta, o.Annotations), AddressType: o.AddressType, Endpoints: o.Endpoints, Ports: o.Ports,
	}
	for i := range s.Ports {
		port := &s.Ports[i]
		if port.Name == nil {
			port.Name = new(string)
		}
		if port.Protocol == nil || *port.Protocol == "" {
			tcp := corev1.ProtocolTCP
			port.Protocol = &tcp
		}
	}
	return s
}
