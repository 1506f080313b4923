package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

// identities is the allocator of them.
type identities = allocator[identity.Number, identity.Labels]

// testAllocator is an allocator that has had its turn.
func testAllocator(t *testing.T, etcd *kvstore.Client, now func() time.Time, change ...func(*Config)) *identities {
	t.Helper()
	cfg := Config{Cluster: cluster.Config{Name: "east", ID: 1, Size: cluster.Size255}, Etcd: etcd, Logger: quiet()}
	for _, fn := range change {
		fn(&cfg)
	}
	a := newAllocator(cfg, identitySpace(cfg.Cluster.ID, cfg.Cluster.Size), cfg.IdentitiesFile, func() {})
	a.now = now
	if _, err := a.turn(context.Background()); err != nil && !errors.Is(err, errStandby) {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.stop() })
	return a
}

func labelSets(n int) []identity.Labels {
	out := make([]identity.Labels, n)
	for i := range out {
		out[i] = identity.NewLabels("k8s", map[string]string{"app": fmt.Sprint("a", i)})
	}
	return out
}

// Many writers that allocate overlapping label sets at once, over one store,
// must agree: one number to a set, one set to a number.
func TestAllocatorsAgree(t *testing.T) {
	etcd := openEtcd(t)
	sets := labelSets(300)
	results := make([]map[identity.Labels]identity.Number, 4)
	var wg sync.WaitGroup
	for i := range results {
		a := testAllocator(t, etcd, time.Now)
		random := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			results[i] = map[identity.Labels]identity.Number{}
			order := random.Perm(len(sets))
			for len(order) > 0 {
				n := min(1+random.IntN(40), len(order))
				var some []identity.Labels
				for _, j := range order[:n] {
					some = append(some, sets[j])
				}
				order = order[n:]
				got, err := a.assign(context.Background(), some)
				if err != nil {
					t.Error(err)
					return
				}
				for labels, number := range got {
					results[i][labels] = number
				}
			}
		})
	}
	wg.Wait()
	meaning := map[identity.Number]identity.Labels{}
	for i, got := range results {
		if len(got) != len(sets) {
			t.Fatalf("writer %d has %d numbers, want %d", i, len(got), len(sets))
		}
		for labels, number := range got {
			if results[0][labels] != number {
				t.Errorf("%q is %d to writer 0 and %d to writer %d", labels, results[0][labels], number, i)
			}
			if other, ok := meaning[number]; ok && other != labels {
				t.Errorf("%d means %q and %q", number, other, labels)
			}
			meaning[number] = labels
		}
	}
}

func TestAllocatorKeepsNumbersOverARestart(t *testing.T) {
	etcd := openEtcd(t)
	sets := labelSets(200)
	before, err := testAllocator(t, etcd, time.Now).assign(t.Context(), sets)
	if err != nil {
		t.Fatal(err)
	}
	after, err := testAllocator(t, etcd, time.Now).assign(t.Context(), sets)
	if err != nil {
		t.Fatal(err)
	}
	for labels, number := range before {
		if after[labels] != number {
			t.Errorf("%q was %d and is %d", labels, number, after[labels])
		}
	}
}

func TestAllocatorRestsFreedNumbers(t *testing.T) {
	etcd := openEtcd(t)
	clock := time.Unix(1_800_000_000, 0)
	now := func() time.Time { return clock }
	a := testAllocator(t, etcd, now)
	labels := identity.Labels("k8s:app=a;")
	first := one(t, a, labels)
	a.free(first)

	// Its own labels take it out of its rest, whatever the time.
	if again := one(t, a, labels); again != first {
		t.Fatalf("the labels came back as %d, were %d", again, first)
	}
	if !a.claims[first].Freed.IsZero() {
		t.Error("a number in use is still marked as freed")
	}
	a.free(first)
	clock = clock.Add(rest - time.Second)
	if n := a.sweep(); n != 0 {
		t.Errorf("%d numbers were swept before their time", n)
	}
	if _, claimed := a.claims[first]; !claimed {
		t.Error("a resting number may be given away")
	}
	if err := a.writer.Synced(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := testAllocator(t, etcd, now)
	if _, claimed := again.claims[first]; !claimed {
		t.Error("a restart forgets a resting number")
	}
	again.stop() // or it would write again what the other one deletes
	clock = clock.Add(2 * time.Second)
	if n := a.sweep(); n != 1 {
		t.Errorf("%d numbers were swept, want 1", n)
	}
	if err := a.writer.Synced(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, found, err := etcd.Get(t.Context(), ClaimPrefix+first.String()); err != nil || found {
		t.Errorf("the claim of a swept number: found %v, error %v", found, err)
	}
}

func TestAllocatorFullRange(t *testing.T) {
	a := testAllocator(t, openEtcd(t), time.Now)
	first, last := identity.Range(1, cluster.Size255)
	for n := first; n < last; n++ { // all but one
		a.keep(n, claim[identity.Labels]{Holder: identity.Labels("k8s:n=" + n.String() + ";")})
	}
	got, err := a.assign(t.Context(), labelSets(2))
	if !errors.Is(err, errRangeFull) {
		t.Fatalf("got %v, want a full range", err)
	}
	if len(got) != 1 {
		t.Errorf("%d label sets got a number, want the one that there was", len(got))
	}
	for _, number := range got {
		if number != last {
			t.Errorf("got %d, want %d", number, last)
		}
	}
}

func TestAllocatorPassesOverWhatItCanNotRead(t *testing.T) {
	etcd := openEtcd(t)
	labels := identity.Labels("k8s:app=a;")
	var wanted identity.Number
	for n := range identity.Candidates(labels, 1, cluster.Size255) {
		wanted = n
		break
	}
	if err := etcd.Put(t.Context(), ClaimPrefix+wanted.String(), []byte("{")); err != nil {
		t.Fatal(err)
	}
	a := testAllocator(t, etcd, time.Now)
	if _, err := a.load(t.Context()); !errors.Is(err, errClaim) {
		t.Errorf("load returned %v", err)
	}
	if n := one(t, a, labels); n == wanted {
		t.Errorf("%d was taken from another program", n)
	}
}

// A cluster that was given another id does not go on with the numbers of the old
// one, which another cluster may have now.
func TestAllocatorPassesOverAnotherRange(t *testing.T) {
	etcd := openEtcd(t)
	labels := identity.Labels("k8s:app=a;")
	before := one(t, testAllocator(t, etcd, time.Now), labels)
	renumbered := testAllocator(t, etcd, time.Now, func(c *Config) { c.Cluster.ID = 7 })
	if after := one(t, renumbered, labels); after == before || after.Cluster(cluster.Size255) != 7 {
		t.Errorf("cluster 7 uses %d, which was cluster 1's %d", after, before)
	}
}

func one(t *testing.T, a *identities, labels identity.Labels) identity.Number {
	t.Helper()
	got, err := a.assign(t.Context(), []identity.Labels{labels})
	if err != nil {
		t.Fatal(err)
	}
	return got[labels]
}
