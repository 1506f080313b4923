package source

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// counted is a Sink that notes how much it was given.
type counted struct{ changes, completes int }

func (c *counted) Apply(_ context.Context, changes []Change) error {
	c.changes += len(changes)
	return nil
}

func (c *counted) Complete(context.Context) error {
	c.completes++
	return nil
}

// reached is a Reach of the Service mesh/gateway, and who is behind it.
type reachRun struct {
	*Reach
	t    *testing.T
	next *counted
	told []string
}

func newReachRun(t *testing.T) *reachRun {
	next := &counted{}
	r := &reachRun{t: t, next: next}
	r.Reach = NewReach(ReachConfig{
		Namespace: "mesh", Name: "gateway", Max: 4, Next: next, Found: func(addresses []string) { r.told = addresses }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	return r
}

func (r *reachRun) put(objects ...Object) {
	r.t.Helper()
	r.apply(false, objects)
}

func (r *reachRun) drop(objects ...Object) {
	r.t.Helper()
	r.apply(true, objects)
}

func (r *reachRun) apply(deleted bool, objects []Object) {
	r.t.Helper()
	changes := make([]Change, 0, len(objects))
	for _, o := range objects {
		changes = append(changes, Change{Object: reduce(o), Deleted: deleted})
	}
	if err := r.Apply(r.t.Context(), changes); err != nil {
		r.t.Fatal(err)
	}
}

func (r *reachRun) check(note string, want ...string) {
	r.t.Helper()
	got := r.Reached()
	if !slices.Equal(got.Addresses, want) || note == "" != (got.Note == "") || !strings.Contains(got.Note, note) || got.Service != "mesh/gateway" {
		r.t.Errorf("%+v, want %q and a note %q", got, want, note)
	}
	if len(want) > 0 && !slices.Equal(r.told, want) {
		r.t.Errorf("%v was told, want %v", r.told, want)
	}
}

func (r *reachRun) complete() {
	r.t.Helper()
	if err := r.Complete(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// gatewayService returns the Service as it is before anything has been given to it.
func gatewayService(kind corev1.ServiceType, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "mesh", Name: "gateway"}}
	s.Spec.Type = kind
	s.Spec.ClusterIPs = []string{"10.96.0.7"}
	s.Spec.Ports = []corev1.ServicePort{{Name: "gateway", Port: 8474}}
	if kind != corev1.ServiceTypeClusterIP {
		s.Spec.Ports[0].NodePort = 31000
	}
	if change != nil {
		change(s)
	}
	return s
}

// host returns a node; addresses are internal ones unless they begin with "+".
func host(name string, ready corev1.ConditionStatus, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: ready}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
	for _, a := range addresses {
		kind := corev1.NodeInternalIP
		if rest, outside := strings.CutPrefix(a, "+"); outside {
			kind, a = corev1.NodeExternalIP, rest
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: a})
	}
	return n
}

// TestReachByNodes follows a NodePort Service while nodes come, go and fail.
func TestReachByNodes(t *testing.T) {
	r := newReachRun(t)
	r.check("not been read yet")
	r.put(gatewayService(corev1.ServiceTypeNodePort, nil), host("b", corev1.ConditionTrue, "192.0.2.2"), host("a", corev1.ConditionTrue, "192.0.2.1", "2001:db8::1"))
	r.check("not been read yet")
	r.complete()
	r.check("", "192.0.2.1:31000", "192.0.2.2:31000") // of the Service's one family
	r.put(host("a", corev1.ConditionUnknown, "192.0.2.1"))
	r.check("", "192.0.2.2:31000")
	r.drop(host("b", corev1.ConditionTrue, "192.0.2.2"))
	r.check("no node that is ready")
	if len(r.told) != 1 { // where others read from stays as it is
		r.t.Errorf("%v was told of no address", r.told)
	}
	r.put(host("a", corev1.ConditionTrue, "192.0.2.9"))
	r.check("", "192.0.2.9:31000")
	for i := range 9 {
		r.put(host(fmt.Sprintf("n%d", i), corev1.ConditionTrue, fmt.Sprintf("198.51.100.%d", i)))
	}
	r.check("", "192.0.2.9:31000", "198.51.100.0:31000", "198.51.100.1:31000", "198.51.100.2:31000")
	r.put(host("n7", corev1.ConditionTrue, "198.51.100.7", "+203.0.113.7"))
	r.check("", "203.0.113.7:31000")
	if r.next.changes != 16 || r.next.completes != 1 {
		t.Errorf("passed on %+v, want all", r.next)
	}
	r.drop(gatewayService(corev1.ServiceTypeNodePort, nil))
	r.check("no such Service")
}

// TestReachByFamilies: with two families every node is there once before any is twice.
func TestReachByFamilies(t *testing.T) {
	r := newReachRun(t)
	r.put(gatewayService(corev1.ServiceTypeNodePort, func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"fd00::7", "10.96.0.7"} }),
		host("a", corev1.ConditionTrue, "192.0.2.1", "2001:db8::1"), host("b", corev1.ConditionTrue, "192.0.2.2", "2001:db8::2"))
	r.complete()
	r.check("", "[2001:db8::1]:31000", "[2001:db8::2]:31000", "192.0.2.1:31000", "192.0.2.2:31000")
}

// TestReachByLocalEndpoints: nodes without an endpoint drop what comes to such a Service.
func TestReachByLocalEndpoints(t *testing.T) {
	slice := func(name, service, node string, ready bool) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "mesh", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}
	}
	r := newReachRun(t)
	r.put(gatewayService(corev1.ServiceTypeNodePort, func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}), host("a", corev1.ConditionTrue, "192.0.2.1"), host("b", corev1.ConditionTrue, "192.0.2.2"), slice("other-1", "other", "a", true))
	r.complete()
	r.check("no node that is ready")
	r.put(slice("gateway-1", "gateway", "b", true), slice("gateway-2", "gateway", "a", false))
	r.check("", "192.0.2.2:31000")
	r.put(slice("gateway-1", "gateway", "a", true))
	r.check("", "192.0.2.1:31000")
	r.put(slice("gateway-1", "other", "a", true)) // given to another Service
	r.check("no node that is ready")
	r.put(slice("gateway-2", "gateway", "a", true))
	r.drop(slice("gateway-1", "other", "a", true))
	r.check("", "192.0.2.1:31000")
	r.drop(slice("gateway-2", "gateway", "a", true))
	r.check("no node that is ready")
}

// TestReachByTypes covers what else a Service can be.
func TestReachByTypes(t *testing.T) {
	balanced := func(ports ...corev1.ServicePort) *corev1.Service {
		return gatewayService(corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "gw.example.com"}, {IP: "203.0.113.1"}, {IP: "203.0.113.1"}}
			if ports != nil {
				s.Spec.Ports = ports
			}
		})
	}
	for name, tc := range map[string]struct {
		service *corev1.Service
		note    string
		want    []string
	}{
		"inside only":     {gatewayService(corev1.ServiceTypeClusterIP, nil), "of type ClusterIP, which has no address outside", nil},
		"an external one": {gatewayService(corev1.ServiceTypeClusterIP, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.200"} }), "", []string{"192.0.2.200:8474"}},
		"balanced":        {balanced(), "", []string{"gw.example.com:8474", "203.0.113.1:8474"}},
		"not balanced":    {gatewayService(corev1.ServiceTypeLoadBalancer, nil), "nothing has given it a load balancer yet: these are a port of the nodes", []string{"192.0.2.1:31000"}},
		"no node ports": {
			gatewayService(corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 0 }),
			"nothing has given it a load balancer yet", nil,
		},
		"the one port": {balanced(corev1.ServicePort{Name: "any", Port: 443}), "", []string{"gw.example.com:443", "203.0.113.1:443"}},
		"one of two": {
			balanced(corev1.ServicePort{Name: "http", Port: 80}, corev1.ServicePort{Name: "gateway", Port: 443}, corev1.ServicePort{Name: "x", Port: 81}), "",
			[]string{"gw.example.com:443", "203.0.113.1:443"},
		},
		"none of two": {balanced(corev1.ServicePort{Name: "http", Port: 80}, corev1.ServicePort{Name: "https", Port: 443}), "no TCP port named gateway", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReachRun(t)
			r.put(tc.service, host("a", corev1.ConditionTrue, "192.0.2.1"))
			r.complete()
			r.check(tc.note, tc.want...)
		})
	}
}
