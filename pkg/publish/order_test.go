package publish

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/source"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// reader follows what is published by one watch, so in the order of the writes,
// and notes what refers to something that is not there.
type reader struct {
	layout wire.Layout

	mu         sync.Mutex
	identities map[identity.Number]bool
	addresses  map[netip.Addr]identity.Number
	slices     map[string]*service.Slice
	wrong      []string
}

func (r *reader) Changes(_ context.Context, changes []kvstore.Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// What one transaction does is there at once.
	for i, c := range changes {
		r.take(c)
		if i == len(changes)-1 || changes[i+1].Revision != c.Revision {
			r.check(c)
		}
	}
	return nil
}

func (r *reader) take(c kvstore.Change) {
	switch {
	case strings.HasPrefix(c.Key, r.layout.Prefix(wire.Identities)):
		n, _ := r.layout.ParseIdentityKey(c.Key)
		r.identities[n] = !c.Deleted
	case strings.HasPrefix(c.Key, r.layout.Prefix(wire.Addresses)):
		p, _ := r.layout.ParseAddressKey(c.Key)
		delete(r.addresses, p.Addr())
		if a, err := r.layout.DecodeAddress(c.Key, c.Value); !c.Deleted && err == nil {
			r.addresses[p.Addr()] = a.Identity
		}
	case strings.HasPrefix(c.Key, r.layout.Prefix(wire.Slices)):
		delete(r.slices, c.Key)
		if s, err := r.layout.DecodeSlice(c.Key, c.Value); !c.Deleted && err == nil {
			r.slices[c.Key] = s
		}
	}
}

func (r *reader) check(c kvstore.Change) {
	for ip, n := range r.addresses {
		if !r.identities[n] {
			r.wrong = append(r.wrong, fmt.Sprintf("after %s: %s has identity %d, which is not there", c.Key, ip, n))
		}
	}
	for key, s := range r.slices {
		for _, e := range s.Endpoints {
			if _, ok := r.addresses[e.Addresses[0]]; !ok {
				r.wrong = append(r.wrong, fmt.Sprintf("after %s: %s has %s, which is not there", c.Key, key, e.Addresses[0]))
			}
		}
	}
}

func (r *reader) Complete(context.Context) error { return nil }
func (r *reader) Trouble(error)                  {}

func (r *reader) count() (addresses, slices int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.addresses), len(r.slices)
}

// rollout gives pods 0..n-1 of a service that begin anew, with other labels, and
// the slice that has them. The last address of a turn is the first of the next.
func rollout(turn, n int) []source.Change {
	var out []source.Change
	port, ready := int32(80), true
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{service.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &port}},
	}
	for i := range n {
		ip := fmt.Sprintf("10.0.%d.%d", (turn*(n-1)+i)/250, 1+(turn*(n-1)+i)%250)
		out = append(out, source.Change{Object: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("web-", i), Labels: map[string]string{"v": fmt.Sprint(turn, "-", i%3)}},
			Spec:       corev1.PodSpec{NodeName: "n1"},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
		}})
		sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return append(out, source.Change{Object: sl})
}

// Over rollouts that change every identity and address at once, a reader meets
// no address before its identity, and no backend before its address; the same
// when they go.
func TestOrderOnTheWire(t *testing.T) {
	etcd := openEtcd(t)
	r := &reader{
		layout: wire.Layout{Cluster: "east"}, identities: map[identity.Number]bool{},
		addresses: map[netip.Addr]identity.Number{}, slices: map[string]*service.Slice{},
	}
	for n := range identity.MinLocal {
		r.identities[n] = true
	}
	filter, err := identity.NewFilter(identity.DefaultExcluded())
	if err != nil {
		t.Fatal(err)
	}
	p := New(Config{Cluster: east, Etcd: etcd, Filter: filter, Logger: quiet(), Local: func(merge.Update) {}})
	run(t, p.Run)
	run(t, func(ctx context.Context) error {
		return etcd.Follow(ctx, kvstore.FollowConfig{Ranges: []kvstore.Range{kvstore.Prefix("cilium/state/")}, Handler: r})
	})
	web := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Annotations: map[string]string{service.AnnotationGlobal: "true"}},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	apply := func(changes ...source.Change) {
		if err := p.Apply(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
	}
	const pods = 150 // more than a transaction holds
	apply(source.Change{Object: web})
	apply(rollout(0, pods)...)
	if err := p.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for turn := range 12 {
		apply(rollout(turn, pods)...)
		if turn%3 > 0 {
			continue // the next one comes while this one is being written
		}
		eventually(t, func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			last := netip.MustParseAddr(rollout(turn, pods)[pods-1].Object.(*corev1.Pod).Status.PodIP)
			for _, s := range r.slices {
				if len(s.Endpoints) == pods && s.Endpoints[pods-1].Addresses[0] == last {
					return nil
				}
			}
			return fmt.Errorf("turn %d is not published", turn)
		})
	}
	changes := rollout(11, pods)
	for i := range changes {
		changes[i].Deleted = true
	}
	apply(changes...)
	eventually(t, func() error {
		if addresses, slices := r.count(); addresses+slices > 0 {
			return fmt.Errorf("%d addresses and %d slices are left", addresses, slices)
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 {
		t.Errorf("%d times something refers to what is not there, the first: %s", len(r.wrong), r.wrong[0])
	}
}
