package source

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// managedBy is the value of the label that tells derived slices from others.
const managedBy = "causeway"

// mayServe says whether a Pod can be an endpoint at all: it has an address and
// has not ended. Whether it is ready is told by its endpoint's conditions.
func mayServe(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded && len(p.Status.PodIPs) > 0
}

// familiesOf returns the families of a Service, both where it does not say: a
// headless one written by hand.
func familiesOf(s *corev1.Service) []corev1.IPFamily {
	if len(s.Spec.IPFamilies) > 0 {
		return s.Spec.IPFamilies
	}
	return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
}

// deriveSlices returns a Service's slices of one family. Pods whose named ports
// resolve differently are in different slices.
func deriveSlices(s *corev1.Service, family corev1.IPFamily, pods []*corev1.Pod, zones map[string]string) []*discoveryv1.EndpointSlice {
	groups := make(map[string]*portGroup)
	for _, p := range pods {
		addresses := addressesOf(p, family)
		if len(addresses) == 0 {
			continue
		}
		ports := resolvePorts(s, p)
		key := portsKey(ports)
		if groups[key] == nil {
			groups[key] = &portGroup{ports: ports}
		}
		groups[key].members = append(groups[key].members, member{
			hash:     service.Hash(p.Name),
			endpoint: endpointOf(s, p, addresses, zones[p.Spec.NodeName]),
		})
	}
	var derived []*discoveryv1.EndpointSlice
	for key, g := range groups {
		stem := fmt.Sprintf("%s-%s-%012x", s.Name, strings.ToLower(string(family)), service.Hash(key)>>16)
		service.Divide(stem, g.members, func(m member) uint64 { return m.hash }, func(name string, members []member) {
			derived = append(derived, sliceOf(s, family, name, g.ports, members))
		})
	}
	return derived
}

// portGroup is the endpoints that serve on the same ports.
type portGroup struct {
	ports   []discoveryv1.EndpointPort
	members []member
}

type member struct {
	hash     uint64 // of the Pod's name
	endpoint discoveryv1.Endpoint
}

// isMirrored reports whether a mesh wrote a slice, of another cluster's backends.
func isMirrored(s *discoveryv1.EndpointSlice) bool { return service.IsMirrored(s.Labels) }

func sliceOf(s *corev1.Service, family corev1.IPFamily, name string, ports []discoveryv1.EndpointPort, members []member) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace,
			Name:      name,
			Labels: map[string]string{
				discoveryv1.LabelServiceName: s.Name,
				discoveryv1.LabelManagedBy:   managedBy,
			},
		},
		AddressType: discoveryv1.AddressType(family),
		Ports:       ports,
	}
	for _, m := range members {
		slice.Endpoints = append(slice.Endpoints, m.endpoint)
	}
	return slice
}

func addressesOf(p *corev1.Pod, family corev1.IPFamily) []string {
	var addresses []string
	for _, entry := range p.Status.PodIPs {
		if ip, err := netip.ParseAddr(entry.IP); err == nil && familyOf(ip) == family {
			addresses = append(addresses, entry.IP)
		}
	}
	return addresses
}

func endpointOf(s *corev1.Service, p *corev1.Pod, addresses []string, zone string) discoveryv1.Endpoint {
	serving := isReady(p)
	terminating := p.DeletionTimestamp != nil
	ready := s.Spec.PublishNotReadyAddresses || (serving && !terminating)
	e := discoveryv1.Endpoint{
		Addresses:  addresses,
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		e.NodeName = &p.Spec.NodeName
	}
	if zone != "" {
		e.Zone = &zone
	}
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
		e.Hostname = &p.Spec.Hostname
	}
	return e
}

func isReady(p *corev1.Pod) bool {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// resolvePorts returns the ports on which a Pod serves; a named one that it does
// not have is left out.
func resolvePorts(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for i := range s.Spec.Ports {
		port := &s.Spec.Ports[i]
		number, ok := targetPort(port, p)
		if !ok {
			continue
		}
		ports = append(ports, discoveryv1.EndpointPort{
			Name: &port.Name, Protocol: &port.Protocol, Port: &number, AppProtocol: port.AppProtocol,
		})
	}
	return ports
}

func targetPort(port *corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		number := port.TargetPort.IntVal
		return number, number > 0 && number <= math.MaxUint16
	}
	named := func(c *corev1.Container) (int32, bool) {
		for _, cp := range c.Ports {
			if cp.Name == port.TargetPort.StrVal && cp.Protocol == port.Protocol {
				return cp.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range p.Spec.Containers {
		if number, ok := named(&p.Spec.Containers[i]); ok {
			return number, true
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue // it has ended before the Pod serves
		}
		if number, ok := named(c); ok {
			return number, true
		}
	}
	return 0, false
}

func portsKey(ports []discoveryv1.EndpointPort) string {
	var key strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&key, "%q/%s/%d", *p.Name, *p.Protocol, *p.Port)
		if p.AppProtocol != nil {
			fmt.Fprintf(&key, "/%q", *p.AppProtocol)
		}
	}
	return key.String()
}
