package publish

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// replicas are two that share an etcd; the first one writes until depose.
func replicas(t *testing.T) (etcd *kvstore.Client, first, second *kvstore.Election, depose func()) {
	t.Helper()
	etcd = openEtcd(t)
	first, stop := elected(t, etcd, "first")
	writes(t, first)
	second, _ = elected(t, etcd, "second")
	return etcd, first, second, func() {
		t.Helper()
		stop()
		writes(t, second)
	}
}

// freed returns whether a replica knows that a number rests.
func freed[N, H comparable](a *allocator[N, H], n N) error {
	if a.claims[n].Freed.IsZero() {
		return errors.New("the number does not rest")
	}
	return nil
}

// A workload that came back while nobody wrote has the number that the writer
// had freed. Who writes next keeps it: it is not given to anybody else, however
// long that lasts.
func TestTakeoverKeepsTheIdentitiesInUse(t *testing.T) {
	etcd, one, two, depose := replicas(t)
	replica := func(e *kvstore.Election) *workloads {
		a := testAllocator(t, etcd, time.Now, func(c *Config) { c.Election = e })
		return newWorkloads(origin{name: "east", id: 1}, wire.Layout{Cluster: "east"}, identity.Filter{}, a)
	}
	writer, standby := replica(one), replica(two)
	labels, ip := labelSets(1)[0], netip.MustParseAddr("10.1.0.1")
	pod := map[netip.Addr]*workload{ip: {address: &endpoint.Address{Cluster: "east", Prefix: netip.PrefixFrom(ip, 32)}, labels: labels}}
	gone := map[netip.Addr]*workload{ip: nil}
	sync := func(w *workloads, found map[netip.Addr]*workload) error {
		_, err := w.sync(t.Context(), found, true)
		return err
	}
	if err := errors.Join(sync(writer, pod), sync(writer, gone)); err != nil {
		t.Fatal(err)
	}
	n := writer.allocator.numbers[labels]
	eventually(t, func() error { return errors.Join(sync(standby, nil), freed(standby.allocator, n)) })
	writer.allocator.stop()
	if err := sync(standby, pod); err != nil || standby.holders[ip].number != n {
		t.Fatalf("it stands by: %d instead of %d, %v", standby.holders[ip].number, n, err)
	}

	depose()
	if err := sync(standby, nil); err != nil {
		t.Fatal(err)
	}
	if err := freed(standby.allocator, n); err == nil {
		t.Error("a number that is in use rests")
	}
	standby.allocator.now = func() time.Time { return time.Now().Add(2 * rest) }
	standby.sweep()
	if standby.allocator.claims[n].Holder != labels {
		t.Error("a number that is in use was given up")
	}
	if err := sync(standby, gone); err != nil {
		t.Fatal(err)
	}
	if err := freed(standby.allocator, n); err != nil {
		t.Errorf("after its last use: %v", err)
	}
}

// The same with the mesh addresses of nodes.
func TestTakeoverKeepsTheMeshAddressesInUse(t *testing.T) {
	etcd, one, two, depose := replicas(t)
	replica := func(e *kvstore.Election) *mesh {
		m := newMesh(Config{Cluster: east, Etcd: etcd, Logger: quiet(), Election: e, MeshRanges: meshRanges("10.200.0.0/24")}, func() {})
		t.Cleanup(m.end)
		return m
	}
	writer, standby := replica(one), replica(two)
	came, gone := map[string]bool{"n1": true}, map[string]bool{"n1": false}
	if err := errors.Join(writer.sync(t.Context(), came, true), writer.sync(t.Context(), gone, true)); err != nil {
		t.Fatal(err)
	}
	a := writer.allocator.numbers[meshHolder{node: "n1"}]
	eventually(t, func() error { return errors.Join(standby.sync(t.Context(), nil, true), freed(standby.allocator, a)) })
	writer.allocator.stop()
	if err := standby.sync(t.Context(), came, true); err != nil || len(standby.pending) > 0 {
		t.Fatalf("it stands by: %v wait, %v", standby.pending, err)
	}

	depose()
	if err := standby.sync(t.Context(), nil, true); err != nil {
		t.Fatal(err)
	}
	standby.allocator.now = func() time.Time { return time.Now().Add(2 * rest) }
	standby.sweep()
	if standby.allocator.claims[a].Holder.node != "n1" {
		t.Error("an address that is in use was given up")
	}
	if err := standby.sync(t.Context(), gone, true); err != nil {
		t.Fatal(err)
	}
	if err := freed(standby.allocator, a); err != nil {
		t.Errorf("after its node went: %v", err)
	}
}
