package mirror

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// TestMirrorOneClusterRefused has admission refuse the objects of one cluster: what
// another has less, or more, is written at once all the same.
func TestMirrorOneClusterRefused(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	name := service.Name{Namespace: namespace, Name: "web"}
	refuseSlices(t, plane, namespace, "object.metadata.?labels[?'causeway.io/source-cluster'].orValue('') == 'north'")
	north := service.MirrorSet{Cluster: "north", Ports: httpOn(8080), Endpoints: endpoints("10.8.0.1")}
	set := func(x *mesh, port uint16, list ...string) {
		want := wanted(namespace, "web", uid, endpoints(list...))
		want.Sets[0].Ports = httpOn(port)
		want.Sets = append(want.Sets, north)
		x.set(want)
	}
	x := newMesh(t)
	set(x, 8080, "10.9.0.1", "10.9.0.2")
	x.start(plane.Kubeconfig())
	untilAddresses(t, plane, namespace, "web", "10.9.0.1", "10.9.0.2")
	until(t, "the refusal is told", func() (string, bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.refused[name], strings.Contains(x.refused[name], "those of north: ") && strings.Contains(x.refused[name], "no slices here")
	})
	set(x, 8081, "10.9.0.3") // another port is another object: the one before has to go
	untilAddresses(t, plane, namespace, "web", "10.9.0.3")
	if s, ok := x.mirror.Standing(name); !ok || s.Wanted != 2 || !strings.Contains(s.Reason, "no slices here") {
		t.Errorf("standing: %+v, %v", s, ok)
	}
	allowSlices(t, plane, namespace)
	untilAddresses(t, plane, namespace, "web", "10.8.0.1", "10.9.0.3")
	until(t, "the refusal is over", func() (string, bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return fmt.Sprint(x.refused, x.mirror.Problems()), x.refused[name] == "" && len(x.mirror.Problems()) == 0
	})
}

// TestMirrorForeign finds a slice that is called like ours and is not: it is left as it
// is, that is said, and ours is written when it has gone.
func TestMirrorForeign(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	name := service.Name{Namespace: namespace, Name: "web"}
	want := wanted(namespace, "web", uid, endpoints("10.9.0.1"))
	object := slices.Collect(maps.Keys(pack(&want)))[0]
	apply(t, plane, fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"+
		"metadata: {name: %s, namespace: %s, labels: {kubernetes.io/service-name: web}}\n"+
		"addressType: IPv4\nendpoints: [{addresses: [10.7.0.1], conditions: {ready: true}}]\n", object, namespace))
	before := versions(t, plane, namespace)
	x := newMesh(t)
	x.set(want)
	x.start(plane.Kubeconfig())
	until(t, "it is told", func() (string, bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.refused[name], strings.Contains(x.refused[name], object+" is not ours")
	})
	if after := versions(t, plane, namespace); after[object] != before[object] {
		t.Errorf("the slice of somebody else was written: %v, then %v", before, after)
	}
	untilAddresses(t, plane, namespace, "web", "10.7.0.1")
	kubectl(t, plane, "delete", "endpointslice", "-n", namespace, object)
	untilAddresses(t, plane, namespace, "web", "10.9.0.1")
	until(t, "all is well", func() (string, bool) {
		return fmt.Sprint(x.mirror.Problems()), len(x.mirror.Problems()) == 0
	})
}

// TestMirrorLead takes the lead away while services are written: those that are left
// are left alone, and written when it comes again.
func TestMirrorLead(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	const services, enough = 40, 5
	x := newMesh(t)
	for i := range services {
		x.set(wanted(namespace, fmt.Sprintf("web-%d", i), uid, endpoints("10.9.0.1")))
	}
	x.lead = func() bool { return x.writes() < enough }
	x.start(plane.Kubeconfig())
	until(t, "the pass ends", func() (string, bool) {
		x.mirror.mu.Lock()
		defer x.mirror.mu.Unlock()
		n := x.writes()
		return fmt.Sprint(n, len(x.mirror.due)), n > enough+writers || n >= enough && len(x.mirror.due) >= services-enough-writers
	})
	if n := x.writes(); n > enough+writers {
		t.Errorf("%d writes though the lead was lost at %d", n, enough)
	}
	x.mu.Lock()
	x.lead = nil
	x.mu.Unlock()
	x.elect(true)
	until(t, "all is written", func() (string, bool) {
		n := len(versions(t, plane, namespace))
		return fmt.Sprint(n), n == services
	})
}

// TestMirrorThrottled has the API server answer each write by 429: no more is asked
// than it lets us, whatever changes meanwhile, it is said, and all is written later.
func TestMirrorThrottled(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	throttle := startThrottle(t, plane)
	x := newMesh(t)
	for i := range 20 {
		x.set(wanted(namespace, fmt.Sprintf("web-%d", i), uid, endpoints("10.9.0.1")))
	}
	x.start(throttle.kubeconfig)
	const rounds = 2 // that have to have passed
	var refused []time.Time
	until(t, "enough writes are answered by 429", func() (string, bool) {
		x.mirror.Touch(x.names())
		refused = throttle.times()
		return fmt.Sprint(len(refused)), len(refused) > rounds*writers
	})
	if took := refused[rounds*writers].Sub(refused[0]); took < rounds*time.Second {
		t.Errorf("%d writes in %v though the API server has us wait a second after %d", rounds*writers+1, took, writers)
	}
	if problems := x.mirror.Problems(); len(problems) != 1 || !strings.Contains(problems[0], "has us wait") {
		t.Errorf("problems: %q", problems)
	}
	throttle.open()
	untilAddresses(t, plane, namespace, "web-19", "10.9.0.1")
	until(t, "no problem is left", func() (string, bool) {
		return fmt.Sprint(x.mirror.Problems()), len(x.mirror.Problems()) == 0 && len(versions(t, plane, namespace)) == 20
	})
}

// throttle stands in front of a control plane and answers all writes by 429 until it
// is opened.
type throttle struct {
	kubeconfig string

	mu      sync.Mutex
	opened  bool
	refused []time.Time
}

func startThrottle(t *testing.T, plane *kubelab.ControlPlane) *throttle {
	t.Helper()
	x := &throttle{}
	x.kubeconfig = kubelab.Proxy(t, plane, func(w http.ResponseWriter, request *http.Request) http.ResponseWriter {
		if request.Method == http.MethodGet || x.lets() {
			return w
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return nil
	}).Kubeconfig
	return x
}

// lets reports whether a write is let through, and notes one that is not.
func (x *throttle) lets() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.opened {
		x.refused = append(x.refused, time.Now())
	}
	return x.opened
}

func (x *throttle) open() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.opened = true
}

func (x *throttle) times() []time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return append([]time.Time(nil), x.refused...)
}
