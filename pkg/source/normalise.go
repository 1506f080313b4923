package source

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// normalise makes an object what an API server would give (the defaults that a
// mesh looks at, for manifests written by hand) and takes off what a mesh has no
// use for. That keeps tens of thousands of Pods in little memory, and lets an
// object that only got a new heartbeat count as unchanged.
func normalise(o Object) {
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	trimMeta(o)
	switch o := o.(type) {
	case *corev1.Node:
		normaliseNode(o)
	case *corev1.Pod:
		normalisePod(o)
	case *corev1.Service:
		normaliseService(o)
	case *discoveryv1.EndpointSlice:
		for i := range o.Ports {
			setDefault(&o.Ports[i].Name, "")
			setDefault(&o.Ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
}

func trimMeta(o Object) {
	o.SetManagedFields(nil)
	o.SetResourceVersion("")
	o.SetGeneration(0)
	annotations := o.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	if len(annotations) == 0 {
		o.SetAnnotations(nil)
	}
}

func normaliseNode(n *corev1.Node) {
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	status := corev1.NodeStatus{Addresses: n.Status.Addresses, NodeInfo: n.Status.NodeInfo, Conditions: n.Status.Conditions}
	for i := range status.Conditions {
		status.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	n.Status = status
}

func normalisePod(p *corev1.Pod) {
	p.Spec = corev1.PodSpec{
		Containers:         trimContainers(p.Spec.Containers),
		InitContainers:     trimContainers(p.Spec.InitContainers),
		NodeName:           p.Spec.NodeName,
		ServiceAccountName: p.Spec.ServiceAccountName,
		HostNetwork:        p.Spec.HostNetwork,
		Hostname:           p.Spec.Hostname,
		Subdomain:          p.Spec.Subdomain,
		RestartPolicy:      p.Spec.RestartPolicy,
	}
	status := corev1.PodStatus{
		Phase: p.Status.Phase, Reason: p.Status.Reason, Conditions: p.Status.Conditions,
		HostIP: p.Status.HostIP, HostIPs: p.Status.HostIPs, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs,
	}
	if len(status.PodIPs) == 0 && status.PodIP != "" {
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	}
	if len(status.HostIPs) == 0 && status.HostIP != "" {
		status.HostIPs = []corev1.HostIP{{IP: status.HostIP}}
	}
	for i := range status.Conditions {
		status.Conditions[i].LastProbeTime = metav1.Time{}
	}
	p.Status = status
}

func trimContainers(containers []corev1.Container) []corev1.Container {
	var trimmed []corev1.Container
	for _, c := range containers {
		for i := range c.Ports {
			if c.Ports[i].Protocol == "" {
				c.Ports[i].Protocol = corev1.ProtocolTCP
			}
		}
		trimmed = append(trimmed, corev1.Container{Name: c.Name, Image: c.Image, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return trimmed
}

func normaliseService(s *corev1.Service) {
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
		if port.TargetPort == (intstr.IntOrString{}) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// setDefault makes an optional field point to a value where it points to none or
// to an empty one.
func setDefault[T comparable](field **T, value T) {
	var zero T
	if *field == nil || **field == zero {
		*field = &value
	}
}
