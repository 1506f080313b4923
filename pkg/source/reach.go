package source

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// gatewayPort is the name of the port by which a Service leads to the gateway, where
// it has more than one.
const gatewayPort = "gateway"

// ReachConfig says by which Service others reach the gateway, and who else receives
// the source's objects.
type ReachConfig struct {
	Namespace, Name string
	// Max is how many addresses are found at most.
	Max  int
	Next Sink
	// Found is told of each other addresses, and not when there are none; nil for nobody.
	// It must not wait.
	Found      func(addresses []string)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Reach is a Sink that finds the addresses of a Service on which clients outside of
// the cluster reach it, and keeps them current; all that it is given it passes on. No
// address is lost while the source cannot be read: nothing changes then.
type Reach struct {
	cfg   ReachConfig
	found prometheus.Gauge

	// Of the goroutine that calls Apply and Complete.
	outside  Outside
	complete bool

	mu    sync.Mutex
	state Reached
}

// Reached is what a Reach found.
type Reached struct {
	// Service is namespace/name.
	Service string
	// Addresses are host:port, never changed in place.
	Addresses []string
	// Note says why there are no addresses, or not those that the Service is to have;
	// "" for nothing.
	Note string
}

// NewReach returns a Reach that has found nothing yet.
func NewReach(cfg ReachConfig) *Reach {
	r := &Reach{
		cfg: cfg, outside: Outside{Nodes: make(map[string]*corev1.Node), Slices: make(map[string]*discoveryv1.EndpointSlice)},
		found: promauto.With(cfg.Registerer).NewGauge(prometheus.GaugeOpts{
			Name: "causeway_source_gateway_addresses",
			Help: "Addresses of the Service by which other clusters reach the gateway.",
		}),
	}
	r.state = Reached{Service: cfg.Namespace + "/" + cfg.Name, Note: "the Kubernetes API has not been read yet"}
	return r
}

// Reached returns what is known now. It may be called at any time by any goroutine.
func (r *Reach) Reached() Reached {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Apply takes in what concerns the Service.
func (r *Reach) Apply(ctx context.Context, changes []Change) error {
	concerned := false
	for _, c := range changes {
		concerned = r.take(c) || concerned
	}
	if concerned && r.complete {
		r.find()
	}
	return r.cfg.Next.Apply(ctx, changes)
}

// Complete finds the first addresses.
func (r *Reach) Complete(ctx context.Context) error {
	r.complete = true
	r.find()
	return r.cfg.Next.Complete(ctx)
}

// take reports whether a change may concern the Service.
func (r *Reach) take(c Change) bool {
	switch o := c.Object.(type) {
	case *corev1.Node:
		return keepOrDrop(r.outside.Nodes, o.Name, o, c.Deleted)
	case *corev1.Service:
		if o.Namespace == r.cfg.Namespace && o.Name == r.cfg.Name {
			r.outside.Service = o
			if c.Deleted {
				r.outside.Service = nil
			}
			return true
		}
	case *discoveryv1.EndpointSlice:
		if o.Namespace == r.cfg.Namespace && (o.Labels[discoveryv1.LabelServiceName] == r.cfg.Name || r.outside.Slices[o.Name] != nil) {
			return keepOrDrop(r.outside.Slices, o.Name, o, c.Deleted || o.Labels[discoveryv1.LabelServiceName] != r.cfg.Name)
		}
	}
	return false
}

func keepOrDrop[T any](in map[string]T, name string, o T, drop bool) bool {
	if drop {
		delete(in, name)
	} else {
		in[name] = o
	}
	return true
}

func (r *Reach) find() {
	addresses, note := r.outside.Addresses()
	addresses = addresses[:min(len(addresses), r.cfg.Max)]
	r.found.Set(float64(len(addresses)))
	if !r.set(addresses, note) {
		return
	}
	if r.cfg.Found != nil && len(addresses) > 0 {
		r.cfg.Found(addresses)
	}
	r.cfg.Logger.Info("found the gateway's addresses", "service", r.cfg.Namespace+"/"+r.cfg.Name, "addresses", addresses, "note", note)
}

// set reports whether that is another state.
func (r *Reach) set(addresses []string, note string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(addresses, r.state.Addresses) && note == r.state.Note {
		return false
	}
	r.state.Addresses, r.state.Note = addresses, note
	return true
}

// Outside is what decides on which addresses clients outside of a cluster reach a
// Service of it: nodes by name, and the Service's slices, which only one with the
// external traffic policy Local needs.
type Outside struct {
	Service *corev1.Service // nil where there is none
	Nodes   map[string]*corev1.Node
	Slices  map[string]*discoveryv1.EndpointSlice
}

// Addresses returns the addresses, host:port, by the port for the gateway, and what
// keeps the Service from having those that it is to have, "" for nothing.
func (o Outside) Addresses() (out []string, note string) {
	s := o.Service
	if s == nil {
		return nil, "there is no such Service"
	}
	port := portOf(s)
	if port == nil {
		return nil, fmt.Sprintf("it has several ports, or none, and no TCP port named %s", gatewayPort)
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		for _, host := range []string{in.IP, in.Hostname} {
			out = appendNew(out, host, port.Port)
		}
	}
	for _, ip := range s.Spec.ExternalIPs {
		out = appendNew(out, ip, port.Port)
	}
	if len(out) > 0 {
		return out, ""
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		note = "nothing has given it a load balancer yet"
	}
	if port.NodePort == 0 {
		return nil, cmp.Or(note, fmt.Sprintf("it is of type %s, which has no address outside of the cluster", s.Spec.Type))
	}
	for _, ip := range o.nodeAddresses() {
		out = appendNew(out, ip.String(), port.NodePort)
	}
	switch {
	case len(out) == 0:
		note = "no node that is ready leads to it"
	case note != "":
		note += ": these are a port of the nodes"
	}
	return out, note
}

// portOf returns the port that leads to the gateway, nil for none.
func portOf(s *corev1.Service) *corev1.ServicePort {
	var only *corev1.ServicePort
	for i := range s.Spec.Ports {
		port := &s.Spec.Ports[i]
		if port.Protocol == corev1.ProtocolTCP && (port.Name == gatewayPort || len(s.Spec.Ports) == 1) {
			only = port
		}
	}
	return only
}

func appendNew(out []string, host string, port int32) []string {
	if address := net.JoinHostPort(host, strconv.Itoa(int(port))); host != "" && !slices.Contains(out, address) {
		return append(out, address)
	}
	return out
}

// nodeAddresses returns an address of each node that leads to the Service, for each of
// its families: those for the world where any node has one, else those inside. They
// are in the order of the nodes' names, so that they stay as long as their nodes do.
func (o Outside) nodeAddresses() (out []netip.Addr) {
	var nodes []*corev1.Node
	for _, name := range slices.Sorted(maps.Keys(o.Nodes)) {
		if n := o.Nodes[name]; readyNode(n) && (!o.NeedsSlices() || o.hasEndpoint(name)) {
			nodes = append(nodes, n)
		}
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, family := range o.Service.Spec.IPFamilies {
			for _, n := range nodes {
				if ip, ok := addressOf(n, kind, family); ok {
					out = append(out, ip)
				}
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func readyNode(n *corev1.Node) bool {
	return n.DeletionTimestamp == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// addressOf returns the first address of a node that is of that kind and family.
func addressOf(n *corev1.Node, kind corev1.NodeAddressType, family corev1.IPFamily) (netip.Addr, bool) {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); a.Type == kind && err == nil && familyOf(ip) == family {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// NeedsSlices reports whether nodes without an endpoint drop what comes for the Service.
func (o Outside) NeedsSlices() bool {
	return o.Service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// hasEndpoint says whether an endpoint of the Service that is ready is on a node.
func (o Outside) hasEndpoint(node string) bool {
	for _, s := range o.Slices {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			if ready && e.NodeName != nil && *e.NodeName == node {
				return true
			}
		}
	}
	return false
}
