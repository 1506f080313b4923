package publish

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// origin is the cluster that translated objects belong to.
type origin struct {
	name string
	id   cluster.ID
}

// sourceKubernetes is what the protocol calls objects that come from the
// Kubernetes API.
const sourceKubernetes = "k8s"

func (o origin) node(n *corev1.Node) *node.Node {
	out := &node.Node{
		Cluster: o.name, ClusterID: o.id, Name: n.Name,
		Labels: n.Labels, BootID: n.Status.NodeInfo.BootID, Source: sourceKubernetes,
	}
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err != nil { // host names are addresses too in Kubernetes
			continue
		}
		out.Addresses = append(out.Addresses, node.Address{Type: node.AddressType(a.Type), IP: ip.Unmap()})
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, s := range cidrs {
		if p, err := netip.ParsePrefix(s); err == nil {
			out.PodCIDRs = append(out.PodCIDRs, p.Masked())
		}
	}
	return out
}

// addressable reports whether a pod holds its addresses: one on the host
// network shares its node's, and one that has ended has given its own back.
func addressable(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded
}

func podIPs(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, s := range p.Status.PodIPs {
		if ip, err := netip.ParseAddr(s.IP); err == nil {
			out = append(out, ip.Unmap())
		}
	}
	if len(out) == 0 {
		if ip, err := netip.ParseAddr(p.Status.PodIP); err == nil {
			out = append(out, ip.Unmap())
		}
	}
	return out
}

// address returns what is behind ip, one of p's addresses; the identity is the
// caller's to fill in. hosts are the addresses of p's node, used when the pod's
// status does not say where it runs.
func (o origin) address(p *corev1.Pod, ip netip.Addr, hosts []node.Address) *endpoint.Address {
	return &endpoint.Address{
		Cluster:        o.name,
		Prefix:         netip.PrefixFrom(ip, ip.BitLen()),
		HostIP:         hostIP(p, ip.Is6(), hosts),
		Namespace:      p.Namespace,
		Pod:            p.Name,
		ServiceAccount: serviceAccount(p),
		NamedPorts:     namedPorts(p),
	}
}

// hostIP prefers the address family of the pod's address.
func hostIP(p *corev1.Pod, v6 bool, hosts []node.Address) netip.Addr {
	var candidates []netip.Addr
	for _, h := range p.Status.HostIPs {
		if ip, err := netip.ParseAddr(h.IP); err == nil {
			candidates = append(candidates, ip.Unmap())
		}
	}
	if ip, err := netip.ParseAddr(p.Status.HostIP); err == nil {
		candidates = append(candidates, ip.Unmap())
	}
	for _, a := range hosts {
		if a.Type == node.InternalIP {
			candidates = append(candidates, a.IP)
		}
	}
	for _, ip := range candidates {
		if ip.Is6() == v6 {
			return ip
		}
	}
	if len(candidates) > 0 {
		return candidates[0]
	}
	return netip.Addr{}
}

func serviceAccount(p *corev1.Pod) string {
	return cmp.Or(p.Spec.ServiceAccountName, "default")
}

func namedPorts(p *corev1.Pod) []endpoint.NamedPort {
	var out []endpoint.NamedPort
	add := func(containers []corev1.Container) {
		for _, c := range containers {
			for _, port := range c.Ports {
				if port.Name != "" && validPort(port.ContainerPort) {
					out = append(out, endpoint.NamedPort{
						Name: port.Name, Port: uint16(port.ContainerPort),
						Protocol: string(cmp.Or(port.Protocol, corev1.ProtocolTCP)),
					})
				}
			}
		}
	}
	add(p.Spec.InitContainers)
	add(p.Spec.Containers)
	slices.SortFunc(out, func(a, b endpoint.NamedPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(out)
}

func validPort(p int32) bool { return p > 0 && p < 1<<16 }

// service returns s without backends. home says that its namespace is kept at
// home, which overrides the annotations. Problems are for the person who wrote
// the Service.
func (o origin) service(s *corev1.Service, home bool) (*service.Service, []error) {
	intent, problems := service.ParseAnnotations(s.Annotations)
	out := &service.Service{
		Name:    service.Name{Namespace: s.Namespace, Name: s.Name},
		Cluster: o.name, ClusterID: o.id,
		Labels: s.Labels, Selector: s.Spec.Selector,
		Global: intent.Global && !home, Shared: intent.Shared && !home,
		Affinity: intent.Affinity,
		Headless: s.Spec.ClusterIP == corev1.ClusterIPNone,
		UID:      string(s.UID),
	}
	ports := servicePorts(s)
	mirror, problem := service.ParseMirror(s.Annotations, needsMirror(s))
	if problem != nil {
		problems = append(problems, problem)
	}
	if out.Global && mirror && s.Spec.Type != corev1.ServiceTypeExternalName {
		out.Mirror = mirrorOf(s, ports)
	}
	if out.Headless {
		return out, problems
	}
	for _, ip := range clusterIPs(s) {
		out.Frontends = append(out.Frontends, service.Frontend{IP: ip, Ports: ports})
	}
	for _, ip := range externalIPs(s) {
		out.External = append(out.External, service.Frontend{IP: ip, Ports: ports})
	}
	out.Session = session(s)
	out.NodeLocal = deref(s.Spec.InternalTrafficPolicy) == corev1.ServiceInternalTrafficPolicyLocal
	out.Sort()
	if out.Global && len(out.Frontends) == 0 {
		problems = append(problems, errNoClusterIP)
	}
	return out, problems
}

// needsMirror reports whether clients of a Service come by ways that no hook of a
// node sees: by DNS, or from outside.
func needsMirror(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone ||
		s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func mirrorOf(s *corev1.Service, ports []service.Port) *service.Mirror {
	ports = slices.Clone(ports) // frontends have theirs in their own order
	slices.SortFunc(ports, service.ComparePorts)
	m := &service.Mirror{Ports: ports}
	for _, family := range s.Spec.IPFamilies {
		m.IPv4 = m.IPv4 || family == corev1.IPv4Protocol
		m.IPv6 = m.IPv6 || family == corev1.IPv6Protocol
	}
	return m
}

func clusterIPs(s *corev1.Service) []netip.Addr {
	texts := s.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{s.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// externalIPs returns the addresses besides the cluster IPs. Those of a load
// balancer that wants to see the traffic itself are left out.
func externalIPs(s *corev1.Service) []netip.Addr {
	texts := slices.Clone(s.Spec.ExternalIPs)
	for _, in := range s.Status.LoadBalancer.Ingress {
		if deref(in.IPMode) != corev1.LoadBalancerIPModeProxy {
			texts = append(texts, in.IP)
		}
	}
	cluster := clusterIPs(s)
	var out []netip.Addr
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil && !slices.Contains(cluster, ip.Unmap()) {
			out = append(out, ip.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// session returns for how long a client keeps its backend. Three hours are what
// Kubernetes takes when nothing is said.
func session(s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && deref(c.ClientIP.TimeoutSeconds) > 0 {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func servicePorts(s *corev1.Service) []service.Port {
	var out []service.Port
	for _, p := range s.Spec.Ports {
		if !validPort(p.Port) {
			continue
		}
		out = append(out, service.Port{
			Name: p.Name, Protocol: protocol(p.Protocol), Port: uint16(p.Port), AppProtocol: deref(p.AppProtocol),
		})
	}
	return out
}

func protocol(p corev1.Protocol) service.Protocol {
	return service.Protocol(cmp.Or(p, corev1.ProtocolTCP))
}

// slice returns nil for a slice that belongs to no Service or holds host names.
func (o origin) slice(s *discoveryv1.EndpointSlice) *service.Slice {
	owner := s.Labels[service.LabelServiceName]
	if owner == "" || (s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6) {
		return nil
	}
	out := &service.Slice{
		Cluster: o.name, ClusterID: o.id,
		Namespace: s.Namespace, Name: s.Name, Service: owner,
		Labels: s.Labels, Annotations: withoutTrigger(s.Annotations),
		IPv6: s.AddressType == discoveryv1.AddressTypeIPv6,
	}
	for _, p := range s.Ports {
		if p.Port == nil || !validPort(*p.Port) {
			continue
		}
		out.Ports = append(out.Ports, service.Port{
			Name: deref(p.Name), Protocol: protocol(deref(p.Protocol)),
			Port: uint16(*p.Port), AppProtocol: deref(p.AppProtocol),
		})
	}
	for i := range s.Endpoints {
		if e, ok := sliceEndpoint(&s.Endpoints[i], out.IPv6); ok {
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	out.Sort()
	return out
}

// withoutTrigger leaves out the annotation that changes with every write of the
// slice's controller and tells a reader nothing.
func withoutTrigger(annotations map[string]string) map[string]string {
	if _, ok := annotations[corev1.EndpointsLastChangeTriggerTime]; !ok {
		return annotations
	}
	out := maps.Clone(annotations)
	delete(out, corev1.EndpointsLastChangeTriggerTime)
	if len(out) == 0 {
		return nil
	}
	return out
}

func sliceEndpoint(e *discoveryv1.Endpoint, v6 bool) (service.Endpoint, bool) {
	// Kubernetes: a ready that is not said is true, a serving that is not said
	// is as ready, a terminating that is not said is false.
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	out := service.Endpoint{
		Condition: service.Condition{
			Ready: ready, Serving: ready, Terminating: deref(e.Conditions.Terminating),
		},
		Hostname: deref(e.Hostname), Node: deref(e.NodeName), Zone: deref(e.Zone),
	}
	if e.Conditions.Serving != nil {
		out.Condition.Serving = *e.Conditions.Serving
	}
	for _, s := range e.Addresses {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Unmap().Is6() == v6 {
			out.Addresses = append(out.Addresses, ip.Unmap())
		}
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.ForZones = append(out.ForZones, z.Name)
		}
	}
	if t := e.TargetRef; t != nil {
		out.TargetKind, out.TargetNamespace, out.TargetName, out.TargetUID = t.Kind, t.Namespace, t.Name, string(t.UID)
	}
	return out, len(out.Addresses) > 0
}

// backends returns what a service value says of the endpoints of its slices:
// those that are ready or serving, by address.
func backends(owned []*service.Slice) []service.Backend {
	byIP := make(map[netip.Addr]*service.Backend)
	for _, s := range owned {
		for _, e := range s.Endpoints {
			if !e.Condition.Ready && !e.Condition.Serving {
				continue
			}
			// Only the first address is meant by Kubernetes; more are of no defined use.
			ip := e.Addresses[0]
			b := byIP[ip]
			if b == nil {
				b = &service.Backend{IP: ip, Hostname: e.Hostname, Zone: e.Zone, ForZones: e.ForZones}
				byIP[ip] = b
			}
			b.Ports = append(b.Ports, s.Ports...)
		}
	}
	out := make([]service.Backend, 0, len(byIP))
	for _, b := range byIP {
		slices.SortFunc(b.Ports, service.ComparePorts)
		b.Ports = slices.Compact(b.Ports)
		out = append(out, *b)
	}
	slices.SortFunc(out, func(a, b service.Backend) int { return a.IP.Compare(b.IP) })
	return out
}

// keptAtHome reports whether a Namespace keeps all that is in it in its cluster.
func keptAtHome(ns *corev1.Namespace) bool {
	return ns != nil && strings.EqualFold(ns.Annotations[service.AnnotationNamespaceGlobal], "false")
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
