package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// state is what of a cluster's manifests the lab makes real.
type state struct {
	nodes []NodeSpec
	pods  []PodSpec
}

// readState finds the nodes, and the pods that run, are ready and have an
// address of their own, with every port that a container, a slice or a Service
// names for them. With hosts set, pods on their node's network count too, if they
// listen somewhere.
func readState(objects []Object, hosts bool) (state, error) {
	var s state
	var services []corev1.Service
	var endpoints []discoveryv1.EndpointSlice
	var pods []corev1.Pod
	for _, o := range objects {
		var err error
		switch o.Kind() {
		case "Node":
			var node nodeManifest
			if err = o.decode(&node); err == nil {
				err = s.addNode(&node)
			}
		case "Pod":
			pods, err = decodeInto(pods, o)
		case "Service":
			services, err = decodeInto(services, o)
		case "EndpointSlice":
			endpoints, err = decodeInto(endpoints, o)
		}
		if err != nil {
			return state{}, err
		}
	}
	for i := range pods {
		if !isReal(&pods[i]) {
			continue
		}
		spec, err := podSpec(&pods[i], services, endpoints)
		if err != nil {
			return state{}, err
		}
		if !spec.HostNetwork || hosts && len(spec.TCP)+len(spec.UDP) > 0 {
			s.pods = append(s.pods, spec)
		}
	}
	return s, nil
}

func decodeInto[T any](list []T, o Object) ([]T, error) {
	var item T
	if err := o.decode(&item); err != nil {
		return nil, err
	}
	return append(list, item), nil
}

// nodeManifest is what matters of a Node. Dumps may hold things elsewhere that
// the full type refuses, like machine ids that YAML takes for numbers.
type nodeManifest struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PodCIDR  string   `json:"podCIDR"`
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses []corev1.NodeAddress `json:"addresses"`
	} `json:"status"`
}

func (s *state) addNode(node *nodeManifest) error {
	spec := NodeSpec{Name: node.Metadata.Name}
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			return fmt.Errorf("node %s: %w", spec.Name, err)
		}
		spec.IPs = append(spec.IPs, ip)
	}
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" {
		cidrs = []string{node.Spec.PodCIDR}
	}
	for _, text := range cidrs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("node %s: %w", spec.Name, err)
		}
		spec.PodCIDRs = append(spec.PodCIDRs, cidr.Masked())
	}
	s.nodes = append(s.nodes, spec)
	return nil
}

func isReal(pod *corev1.Pod) bool {
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	return ready && pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP != ""
}

func podSpec(pod *corev1.Pod, services []corev1.Service, endpoints []discoveryv1.EndpointSlice) (PodSpec, error) {
	spec := PodSpec{Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork}
	ips := pod.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, entry := range ips {
		ip, err := netip.ParseAddr(entry.IP)
		if err != nil {
			return PodSpec{}, fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		spec.IPs = append(spec.IPs, ip)
	}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			spec.addPort(port.Protocol, port.ContainerPort)
		}
	}
	for i := range endpoints {
		if endpoints[i].Namespace == pod.Namespace && names(&endpoints[i], spec.IPs) {
			for _, port := range endpoints[i].Ports {
				spec.addPort(deref(port.Protocol), deref(port.Port))
			}
		}
	}
	for i := range services {
		if services[i].Namespace == pod.Namespace && selects(&services[i], pod) {
			for _, port := range services[i].Spec.Ports {
				// A named target port is a container's and known already.
				target := port.TargetPort.IntVal
				if target == 0 && port.TargetPort.StrVal == "" {
					target = port.Port
				}
				spec.addPort(port.Protocol, target)
			}
		}
	}
	slices.Sort(spec.TCP)
	slices.Sort(spec.UDP)
	return spec, nil
}

func (s *PodSpec) addPort(protocol corev1.Protocol, port int32) {
	ports := &s.TCP
	switch cmp.Or(protocol, corev1.ProtocolTCP) {
	case corev1.ProtocolTCP:
	case corev1.ProtocolUDP:
		ports = &s.UDP
	default:
		return // the workload does not speak it
	}
	if port > 0 && !slices.Contains(*ports, int(port)) {
		*ports = append(*ports, int(port))
	}
}

// names reports whether the slice has one of the addresses.
func names(s *discoveryv1.EndpointSlice, ips []netip.Addr) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
		return slices.ContainsFunc(e.Addresses, func(address string) bool {
			ip, err := netip.ParseAddr(address)
			return err == nil && slices.Contains(ips, ip)
		})
	})
}

func selects(service *corev1.Service, pod *corev1.Pod) bool {
	for key, value := range service.Spec.Selector {
		if pod.Labels[key] != value {
			return false
		}
	}
	return len(service.Spec.Selector) > 0
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
