package publish

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/source"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func globalService(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u", Annotations: map[string]string{service.AnnotationGlobal: "true"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "web", Port: 80}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}},
		},
	}
	change(s)
	return s
}

// TestMirrorOf checks which Services want remote backends in Kubernetes.
func TestMirrorOf(t *testing.T) {
	ports := []service.Port{{Name: "dns", Protocol: service.UDP, Port: 53}, {Name: "web", Protocol: service.TCP, Port: 80}}
	ipv4 := &service.Mirror{Ports: ports, IPv4: true}
	typed := func(kind corev1.ServiceType) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Type = kind }
	}
	annotated := func(value string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Annotations[service.AnnotationMirror] = value }
	}
	for name, c := range map[string]struct {
		change func(*corev1.Service)
		home   bool
		want   *service.Mirror
		wrong  bool
	}{
		"cluster IP":       {change: typed(corev1.ServiceTypeClusterIP)},
		"cluster IP, true": {change: annotated("true"), want: ipv4},
		"node port":        {change: typed(corev1.ServiceTypeNodePort), want: ipv4},
		"load balancer":    {change: typed(corev1.ServiceTypeLoadBalancer), want: ipv4},
		"at home":          {change: typed(corev1.ServiceTypeNodePort), home: true},
		"wrong":            {change: annotated("please"), wrong: true},
		"not global": {change: func(s *corev1.Service) {
			s.Spec.Type, s.Annotations = corev1.ServiceTypeNodePort, nil
		}},
		"node port, false": {change: func(s *corev1.Service) {
			s.Spec.Type, s.Annotations[service.AnnotationMirrorCilium] = corev1.ServiceTypeNodePort, "false"
		}},
		"headless": {change: func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.IPFamilies = corev1.ClusterIPNone, []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
		}, want: &service.Mirror{Ports: ports, IPv4: true, IPv6: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got, problems := origin{"east", 1}.service(globalService(c.change), c.home)
			if diff := cmp.Diff(c.want, got.Mirror); diff != "" || got.UID != "u" {
				t.Errorf("uid %q, (-want +got):\n%s", got.UID, diff)
			}
			if (len(problems) > 0) != c.wrong || c.wrong && !errors.Is(problems[0], service.ErrAnnotation) {
				t.Errorf("problems: %v", problems)
			}
		})
	}
}

// TestMirroredIsNotPublished gives a publisher's index slices that meshes wrote: they
// are not there, also when one's label turns it into such a slice and back.
func TestMirroredIsNotPublished(t *testing.T) {
	x := newIndex()
	x.apply(source.Change{Object: globalService(func(*corev1.Service) {})})
	slice := func(name, by string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{service.LabelServiceName: "web", service.LabelManagedBy: by}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.1"}}},
		}
	}
	var wrong []error
	b := newObjects(origin{"east", 1}, wire.Layout{Cluster: "east"}, nil, func(_ service.Name, _ string, problems []error) { wrong = append(wrong, problems...) }, quiet())
	owned := func(want int) {
		t.Helper()
		out := b.sync(x)
		if got := len(b.owned(x, service.Name{Namespace: "shop", Name: "web"})); got != want {
			t.Errorf("%d slices are the Service's, want %d", got, want)
		}
		for name, s := range out.update.Slices {
			if s != nil && service.IsMirrored(s.Labels) {
				t.Errorf("%v is handed over", name)
			}
		}
	}
	x.apply(source.Change{Object: slice("ours", service.ManagedBy)})
	x.apply(source.Change{Object: slice("theirs", service.ManagedByCilium)})
	x.apply(source.Change{Object: slice("own", "endpointslice-controller.k8s.io")})
	owned(1)
	x.apply(source.Change{Object: slice("own", service.ManagedBy)})
	owned(0)
	x.apply(source.Change{Object: slice("own", "")})
	owned(1)
	x.apply(source.Change{Object: slice("ours", service.ManagedBy), Deleted: true})
	owned(1)
	if len(wrong) > 0 {
		t.Errorf("problems: %v", wrong)
	}
	x.apply(source.Change{Object: globalService(func(s *corev1.Service) { s.Annotations[service.AnnotationAffinity] = "near" })})
	owned(1)
	if len(wrong) != 1 || !errors.Is(wrong[0], service.ErrAnnotation) {
		t.Errorf("told of %v, want the affinity", wrong)
	}
}
