package publish

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/causeway-mesh/causeway/pkg/service"
)

func ptr[T any](v T) *T { return &v }

func TestServiceRules(t *testing.T) {
	ip := netip.MustParseAddr
	ports := []service.Port{{Name: "dns", Protocol: service.UDP, Port: 53}, {Name: "web", Protocol: service.TCP, Port: 80}}
	spec := corev1.ServiceSpec{
		ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00:96::1"},
		Ports: []corev1.ServicePort{{Name: "web", Port: 80}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}},
	}
	for _, test := range []struct {
		name   string
		change func(*corev1.Service)
		want   service.Rules
	}{
		{"nothing", func(*corev1.Service) {}, service.Rules{}},
		{
			"external addresses", func(s *corev1.Service) {
				// The last three are one that is there already, a name, and one that is the cluster's.
				s.Spec.ExternalIPs = []string{"192.0.2.9", "2001:db8::9", "192.0.2.9", "lb.example.com", "10.96.0.1"}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
					{IP: "192.0.2.1"},
					{IP: "192.0.2.2", IPMode: ptr(corev1.LoadBalancerIPModeVIP)},
					{IP: "192.0.2.3", IPMode: ptr(corev1.LoadBalancerIPModeProxy)},
					{Hostname: "lb.example.com"},
				}
			},
			service.Rules{External: []service.Frontend{
				{IP: ip("192.0.2.1"), Ports: ports},
				{IP: ip("192.0.2.2"), Ports: ports},
				{IP: ip("192.0.2.9"), Ports: ports},
				{IP: ip("2001:db8::9"), Ports: ports},
			}},
		},
		{"session", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }, service.Rules{Session: 3 * time.Hour}},
		{
			"session time", func(s *corev1.Service) {
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
				s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(10))}}
			},
			service.Rules{Session: 10 * time.Second},
		},
		{"no session", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityNone }, service.Rules{}},
		{
			"own node", func(s *corev1.Service) {
				s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
			},
			service.Rules{NodeLocal: true},
		},
		{
			"any node", func(s *corev1.Service) {
				s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyCluster)
			},
			service.Rules{},
		},
		{
			"headless", func(s *corev1.Service) {
				s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
				s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
				s.Spec.ExternalIPs = []string{"192.0.2.9"}
			},
			service.Rules{},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &corev1.Service{Spec: *spec.DeepCopy()}
			test.change(s)
			got, problems := origin{"east", 1}.service(s, false)
			if diff := cmp.Diff(test.want, got.Rules, cmpopts.EquateComparable(netip.Addr{})); diff != "" || len(problems) != 0 {
				t.Errorf("%v, %s", problems, diff)
			}
		})
	}
}
