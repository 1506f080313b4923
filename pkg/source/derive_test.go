package source

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// endpointLines says what slices hold, in a form that does not depend on how
// endpoints are spread over slices.
func endpointLines(objects []Object, service string) []string {
	var lines []string
	for _, o := range objects {
		s, ok := o.(*discoveryv1.EndpointSlice)
		if !ok || serviceOf(s).String() != service {
			continue
		}
		var ports []string
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%s/%s/%d", *p.Name, *p.Protocol, *p.Port))
		}
		slices.Sort(ports)
		for _, e := range s.Endpoints {
			lines = append(lines, fmt.Sprintf("%s %v ready=%v serving=%v terminating=%v node=%s host=%s zone=%s target=%s/%s/%s %s",
				s.AddressType, e.Addresses, *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating,
				deref(e.NodeName), deref(e.Hostname), deref(e.Zone), e.TargetRef.Kind, e.TargetRef.Namespace, e.TargetRef.Name, strings.Join(ports, ",")))
		}
	}
	slices.Sort(lines)
	return lines
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// TestDeriveAgreesWithKubernetes leaves out of real dumps the slices that the
// controller made and compares what is derived with them.
func TestDeriveAgreesWithKubernetes(t *testing.T) {
	for _, name := range []string{"east", "west"} {
		c, err := parse(t.Context(), dump(t, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		tab := newTable()
		var made []Object
		services := make(map[string]bool)
		c.each(func(o Object, line int) {
			if s, ok := o.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelManagedBy] != "" {
				made = append(made, s)
				services[serviceOf(s).String()] = true
				return
			}
			tab.replace(fmt.Sprint(line), nil, content{{line: line, objects: []located{{object: o}}}})
		})
		var derived []Object
		for _, change := range tab.flush() {
			if s, ok := change.Object.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelManagedBy] == managedBy {
				derived = append(derived, s)
				services[serviceOf(s).String()] = true
			}
		}
		if len(services) < 4 {
			t.Errorf("%s: services %v are fewer than there are", name, services)
		}
		for service := range services {
			if diff := cmp.Diff(endpointLines(made, service), endpointLines(derived, service)); diff != "" {
				t.Errorf("%s: %s (-controller's +derived):\n%s", name, service, diff)
			}
		}
	}
}

// pod returns a running, ready Pod of namespace shop, labelled app=web.
func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			NodeName:   "n1",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: 8080}}}},
		},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIPs:     []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// web returns the Service shop/web that selects app=web.
func web(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeClusterIP,
			Selector:   map[string]string{"app": "web"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func notReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func ending(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }

func TestDeriveRules(t *testing.T) {
	const plain = "IPv4 [10.0.0.1] ready=true serving=true terminating=false node=n1 host= zone= target=Pod/shop/a http/TCP/8080"
	with := func(old, now string) []string { return []string{strings.Replace(plain, old, now, 1)} }
	tests := map[string]struct {
		objects []Object
		want    []string
	}{
		"ready":             {[]Object{web(), pod("a")}, []string{plain}},
		"not ready":         {[]Object{web(), pod("a", notReady)}, with("ready=true serving=true", "ready=false serving=false")},
		"no condition":      {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Status.Conditions = nil })}, with("ready=true serving=true", "ready=false serving=false")},
		"terminating":       {[]Object{web(), pod("a", ending)}, with("ready=true serving=true terminating=false", "ready=false serving=true terminating=true")},
		"publish not ready": {[]Object{web(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pod("a", notReady)}, with("serving=true", "serving=false")},
		"publish ending":    {[]Object{web(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pod("a", ending)}, with("terminating=false", "terminating=true")},
		"failed":            {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, nil},
		"succeeded":         {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, nil},
		"no address":        {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Status.PodIPs = nil })}, nil},
		"other family":      {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Status.PodIPs = p.Status.PodIPs[1:] })}, nil},
		"host network":      {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Spec.HostNetwork = true })}, []string{plain}},
		"other label":       {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Labels["app"] = "db" })}, nil},
		"other namespace":   {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Namespace = "data" })}, nil},
		"longer selector":   {[]Object{web(func(s *corev1.Service) { s.Spec.Selector["tier"] = "" }), pod("a")}, nil},
		"no selector":       {[]Object{web(func(s *corev1.Service) { s.Spec.Selector = nil }), pod("a")}, nil},
		"external name":     {[]Object{web(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), pod("a")}, nil},
		"hostname":          {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "h", "web" })}, with("host=", "host=h")},
		"other subdomain":   {[]Object{web(), pod("a", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "h", "db" })}, []string{plain}},
		"zone": {
			[]Object{web(), pod("a"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z"}}}},
			with("zone=", "zone=z"),
		},
		"both families": {
			[]Object{web(func(s *corev1.Service) { s.Spec.IPFamilies = nil }), pod("a")},
			append(with("", ""), with("IPv4 [10.0.0.1]", "IPv6 [fd00::1]")...),
		},
		"port by number": {
			[]Object{web(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(9) }), pod("a")},
			with("8080", "9"),
		},
		"port of another protocol": {
			[]Object{web(func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }), pod("a")},
			with("http/TCP/8080", ""),
		},
		"port of a sidecar": {
			[]Object{web(), pod("a", func(p *corev1.Pod) {
				always := corev1.ContainerRestartPolicyAlways
				p.Spec.InitContainers = []corev1.Container{
					{Ports: []corev1.ContainerPort{{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: 1}}},
					{Ports: []corev1.ContainerPort{{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: 2}}, RestartPolicy: &always},
				}
				p.Spec.Containers = nil
			})},
			with("8080", "2"),
		},
		"ports that differ": {
			[]Object{web(), pod("a"), pod("b", func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 })},
			append(with("", ""), strings.NewReplacer("shop/a", "shop/b", "8080", "9090").Replace(plain)),
		},
		"own slice": {
			[]Object{web(), pod("a"), &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "x", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}},
			nil,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDeriver()
			for _, o := range tt.objects {
				d.update(nil, o)
			}
			var derived []Object
			for _, c := range d.flush() {
				derived = append(derived, c.Object)
			}
			if diff := cmp.Diff(tt.want, endpointLines(derived, "shop/web")); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			for _, o := range tt.objects {
				d.update(o, nil)
			}
			for _, c := range d.flush() {
				if !c.Deleted {
					t.Errorf("%s stays", c.Object.GetName())
				}
			}
			if n := len(d.derived) + len(d.selecting) + len(d.labelled) + len(d.pods) + len(d.services) + len(d.own) + len(d.zones) + len(d.dirty); n != 0 {
				t.Errorf("%d entries are left over: %+v", n, d)
			}
		})
	}
}

// TestDeriveDivides checks the size of slices, and that a Pod that comes or goes
// changes few of them.
func TestDeriveDivides(t *testing.T) {
	d := newDeriver()
	d.update(nil, web())
	const n = 1000
	for i := range n {
		d.update(nil, pod(fmt.Sprintf("web-%d", i)))
	}
	slicesByName := make(map[string]*discoveryv1.EndpointSlice)
	endpoints := 0
	for _, c := range d.flush() {
		s := c.Object.(*discoveryv1.EndpointSlice)
		slicesByName[s.Name] = s
		endpoints += len(s.Endpoints)
		if len(s.Endpoints) > service.MaxDivided {
			t.Errorf("%s has %d endpoints", s.Name, len(s.Endpoints))
		}
	}
	if endpoints != n || len(slicesByName) > n/service.MaxDivided*2 {
		t.Errorf("%d endpoints in %d slices", endpoints, len(slicesByName))
	}
	d.update(pod("web-7"), pod("web-7", notReady))
	if changes := d.flush(); len(changes) != 1 {
		t.Errorf("one pod changes %d slices", len(changes))
	}
	d.update(pod("web-7", notReady), nil)
	if changes := d.flush(); len(changes) > 3 {
		t.Errorf("one pod less changes %d slices", len(changes))
	}
}

// TestDeriveModel compares the incremental deriver with one that starts from
// nothing, after random changes of everything that it looks at.
func TestDeriveModel(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		d := newDeriver()
		current := make(map[objectKey]Object)
		derived := make(map[string]Object)
		for step := range 150 {
			o := randomObject(random)
			key := keyOf(o)
			if random.IntN(4) == 0 {
				o = nil
			}
			if o != nil || current[key] != nil {
				d.update(current[key], o)
			}
			if current[key] = o; o == nil {
				delete(current, key)
			}
			if random.IntN(3) > 0 {
				continue
			}
			for _, c := range d.flush() {
				if c.Deleted {
					delete(derived, c.Object.GetName())
				} else {
					derived[c.Object.GetName()] = c.Object
				}
			}
			model := newDeriver()
			for _, o := range current {
				model.update(nil, o)
			}
			want := make(map[string]Object)
			for _, c := range model.flush() {
				want[c.Object.GetName()] = c.Object
			}
			if diff := cmp.Diff(want, derived); diff != "" {
				t.Fatalf("seed %d, step %d (-want +got):\n%s", seed, step, diff)
			}
		}
	}
}

func randomObject(random *rand.Rand) Object {
	pick := func(texts ...string) string { return texts[random.IntN(len(texts))] }
	switch random.IntN(6) {
	case 0:
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pick("n1", "n2"), Labels: map[string]string{corev1.LabelTopologyZone: pick("", "a", "b")}}}
	case 1:
		name := pick("x", "y")
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: pick("web", "s1", "")}}}
	case 2:
		return web(func(s *corev1.Service) {
			s.Name = pick("web", "s1", "s2")
			s.Spec.Selector = []map[string]string{nil, {"app": "web"}, {"app": "db"}, {"app": "web", "tier": "front"}}[random.IntN(4)]
			s.Spec.PublishNotReadyAddresses = random.IntN(2) == 0
			s.Spec.Ports[0].TargetPort = []intstr.IntOrString{intstr.FromString("http"), intstr.FromInt32(1)}[random.IntN(2)]
		})
	}
	return pod(pick("a", "b", "c", "d", "e"), func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": pick("web", "db"), "tier": pick("front", "back")}
		p.Spec.NodeName = pick("n1", "n2")
		p.Spec.Containers[0].Ports[0].ContainerPort = int32(8080 + random.IntN(2))
		if random.IntN(2) == 0 {
			notReady(p)
		}
	})
}

// TestDivideIsAPartition checks that every member is in exactly one part, under a name of its own.
func TestDivideIsAPartition(t *testing.T) {
	for _, n := range []int{1, 100, 101, 5000} {
		var members []member
		for i := range n {
			name := fmt.Sprint(i)
			members = append(members, member{hash: service.Hash(name), endpoint: discoveryv1.Endpoint{Addresses: []string{name}}})
		}
		parts := make(map[string]int)
		seen := make(map[string]bool)
		service.Divide("web", members, func(m member) uint64 { return m.hash }, func(name string, part []member) {
			parts[name]++
			for _, m := range part {
				seen[m.endpoint.Addresses[0]] = true
			}
		})
		if len(seen) != n || slices.Max(slices.Collect(maps.Values(parts))) != 1 {
			t.Errorf("%d of %d members in parts %v", len(seen), n, parts)
		}
	}
}

// TestMirroredIsNoSlice derives a Service's slices although another cluster's backends
// stand in one: those are not the Service's own.
func TestMirroredIsNoSlice(t *testing.T) {
	d := newDeriver()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
	}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0", Labels: map[string]string{"app": "web"}},
		Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}}},
	}
	mirrored := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-far", Labels: map[string]string{
		service.LabelServiceName: "web", service.LabelManagedBy: service.ManagedBy,
	}}}
	for _, o := range []Object{s, pod, mirrored} {
		d.update(nil, o)
	}
	if got := d.flush(); len(got) != 1 {
		t.Errorf("%d slices derived, want one", len(got))
	}
	d.update(mirrored, nil)
	if got := d.flush(); len(got) != 0 {
		t.Errorf("%d changes when the mirrored slice goes", len(got))
	}
}
