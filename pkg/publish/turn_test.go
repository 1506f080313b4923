package publish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

const electionKey = "causeway/election"

// elected is an election that runs until the test ends, or it is stopped. Its lease
// is the usual one: long enough for a machine that stands still for a while.
func elected(t *testing.T, etcd *kvstore.Client, name string) (e *kvstore.Election, stop func()) {
	t.Helper()
	e = kvstore.NewElection(kvstore.ElectionConfig{Client: etcd, Name: name, Logger: quiet()})
	return e, run(t, e.Run)
}

func writes(t *testing.T, e *kvstore.Election) {
	t.Helper()
	eventually(t, func() error {
		if term, _ := e.Term(); !term.Writes() {
			return errors.New("it was not elected")
		}
		return nil
	})
}

// assigned waits until an allocator has numbers for all label sets.
func assigned(t *testing.T, a *identities, sets []identity.Labels) map[identity.Labels]identity.Number {
	t.Helper()
	var got map[identity.Labels]identity.Number
	eventually(t, func() (err error) {
		if _, err = a.turn(context.Background()); err == nil {
			got, err = a.assign(context.Background(), sets)
		}
		return err
	})
	return got
}

func same(t *testing.T, what string, want, got map[identity.Labels]identity.Number) {
	t.Helper()
	for labels, number := range want {
		if got[labels] != number {
			t.Errorf("%s: %q was %d and is %d", what, labels, number, got[labels])
		}
	}
}

// A total loss of etcd renumbers nothing, over a restart and while running: what
// is lost is put back before anything else is allocated.
func TestAllocationsOutliveEtcd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "identities")
	keep := func(c *Config) { c.IdentitiesFile = file }
	sets := labelSets(300)
	var before map[identity.Labels]identity.Number
	t.Run("first", func(t *testing.T) {
		a := testAllocator(t, openEtcd(t), time.Now, keep)
		// In an order in which collisions are resolved otherwise than in the next.
		before = assigned(t, a, sets[150:])
		for labels, n := range assigned(t, a, sets[:150]) {
			before[labels] = n
		}
		if err := a.save(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("restart", func(t *testing.T) {
		etcd := openEtcd(t)
		a := testAllocator(t, etcd, time.Now, keep)
		same(t, "after a restart without etcd", before, assigned(t, a, sets))
		same(t, "for another process", before, assigned(t, testAllocator(t, etcd, time.Now), sets))
	})
	t.Run("running", func(t *testing.T) {
		etcd := openEtcd(t)
		e, _ := elected(t, etcd, "a")
		writes(t, e)
		a := testAllocator(t, etcd, time.Now, func(c *Config) { keep(c); c.Election = e })
		assigned(t, a, sets)
		erase(t, etcd)
		eventually(t, func() error { // the term ends with the key, and the next one begins
			if _, err := a.turn(context.Background()); err != nil {
				return err
			}
			n, err := stored(etcd)
			if err == nil && n != len(sets) {
				err = fmt.Errorf("%d claims are in etcd", n)
			}
			return err
		})
		same(t, "after etcd was emptied", before, assigned(t, a, sets))
		same(t, "for another process", before, assigned(t, testAllocator(t, etcd, time.Now), sets))
	})
}

func erase(t *testing.T, etcd *kvstore.Client) {
	t.Helper()
	var keys []string
	err := etcd.List(t.Context(), kvstore.Prefix(""), func(i kvstore.Item) error {
		keys = append(keys, i.Key)
		return nil
	})
	for _, key := range keys {
		err = errors.Join(err, etcd.Delete(t.Context(), key))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func stored(etcd *kvstore.Client) (n int, err error) {
	err = etcd.List(context.Background(), kvstore.Prefix(ClaimPrefix), func(kvstore.Item) error { n++; return nil })
	return n, err
}

// What etcd has counts more than a file that is older.
func TestEtcdCountsMoreThanTheFile(t *testing.T) {
	etcd := openEtcd(t)
	sets := labelSets(2)
	now := assigned(t, testAllocator(t, etcd, time.Now), sets)
	l := testLedger(t)
	if err := l.save(map[identity.Number]claim[identity.Labels]{
		now[sets[0]]:     {Holder: "k8s:app=other;"}, // means something else by now
		now[sets[1]] + 9: {Holder: sets[1]},          // was another number
	}); err != nil {
		t.Fatal(err)
	}
	a := testAllocator(t, etcd, time.Now, func(c *Config) { c.IdentitiesFile = l.path })
	same(t, "with an old file", now, assigned(t, a, sets))
	other := assigned(t, a, []identity.Labels{"k8s:app=other;"})
	if other["k8s:app=other;"] == now[sets[0]] {
		t.Error("a number means two label sets")
	}
}

func TestUnreadableFileAllocatesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identities") // reading a directory fails, for root too
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Etcd: openEtcd(t), Logger: quiet(), IdentitiesFile: dir}
	a := newAllocator(cfg, identitySpace(1, cluster.Size255), dir, func() {})
	for range 2 {
		if _, err := a.turn(t.Context()); err == nil || errors.Is(err, errLedger) {
			t.Errorf("turn returned %v", err)
		}
	}
}

// A replica that stands by has the numbers that the writer allocates, and makes
// none itself.
func TestStandbyLearns(t *testing.T) {
	etcd := openEtcd(t)
	one, stopOne := elected(t, etcd, "one")
	writes(t, one)
	a := testAllocator(t, etcd, time.Now, func(c *Config) { c.Election = one })
	two, _ := elected(t, etcd, "two")
	b := testAllocator(t, etcd, time.Now, func(c *Config) { c.Election = two })
	sets := labelSets(40)

	eventually(t, func() error { _, err := b.turn(context.Background()); return err })
	if got, err := b.assign(t.Context(), sets); !errors.Is(err, errStandby) || len(got) > 0 {
		t.Fatalf("before the writer: %d numbers, error %v", len(got), err)
	}
	if n, err := stored(etcd); n > 0 || err != nil {
		t.Fatalf("it claimed %d itself, error %v", n, err)
	}
	numbers := assigned(t, a, sets)
	same(t, "standing by", numbers, assigned(t, b, sets))

	// A number that the writer frees and gives away is the same here.
	b.free(numbers[sets[0]])
	if !b.claims[numbers[sets[0]]].Freed.IsZero() {
		t.Error("a replica that stands by freed a number")
	}
	a.free(numbers[sets[0]])
	a.now = func() time.Time { return time.Now().Add(2 * rest) }
	a.sweep()
	eventually(t, func() error {
		if _, err := b.turn(context.Background()); err != nil {
			return err
		}
		if _, known := b.claims[numbers[sets[0]]]; known {
			return errors.New("a number that was given up is still known")
		}
		return nil
	})

	a.stop()
	stopOne()
	writes(t, two)
	more := labelSets(60)
	same(t, "after the takeover", assigned(t, b, more[1:40]), numbers)
	assigned(t, b, more)
}

// Replicas that take turns at writing, are deposed at any moment and lose their
// connection to the past, never give two numbers to one label set or one number
// to two; and all of them come to the same.
func TestReplicasAgree(t *testing.T) {
	etcd := openEtcd(t)
	sets := labelSets(60)
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make([]map[identity.Labels]identity.Number, 3)
	for i := range results {
		e, _ := elected(t, etcd, fmt.Sprint("r", i))
		a := testAllocator(t, etcd, time.Now, func(c *Config) { c.Election = e })
		random := rand.New(rand.NewPCG(3, uint64(i)))
		results[i] = map[identity.Labels]identity.Number{}
		group.Go(func() {
			for len(results[i]) < len(sets) && ctx.Err() == nil {
				var some []identity.Labels
				for range 1 + random.IntN(3) {
					some = append(some, sets[random.IntN(len(sets))])
				}
				if _, err := a.turn(ctx); err != nil {
					time.Sleep(5 * time.Millisecond) // between two looks: it stands by and has not learnt yet
					continue
				}
				time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond) // it may be deposed here, and below
				got, _ := a.assign(ctx, some)
				for labels, n := range got {
					if was, ok := results[i][labels]; ok && was != n {
						t.Errorf("replica %d: %q was %d and is %d", i, labels, was, n)
					}
					results[i][labels] = n
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); group.Wait() }()
	deadline := time.After(2 * time.Minute)
	// On a slow machine a turn takes longer than a replica has: the last is left to it.
	for depose, turns := time.NewTicker(700*time.Millisecond), 6; ; {
		select {
		case <-done:
			depose.Stop()
		case <-depose.C:
			if turns--; turns > 0 {
				_ = etcd.Delete(ctx, electionKey)
			}
			continue
		case <-deadline:
			cancel()
			t.Error("the replicas do not come to an end")
			continue
		}
		break
	}
	meaning := map[identity.Number]identity.Labels{}
	for labels, n := range results[0] {
		if other, ok := meaning[n]; ok {
			t.Errorf("%d means %q and %q", n, other, labels)
		}
		meaning[n] = labels
		for i := range results {
			if results[i][labels] != n {
				t.Errorf("%q is %d to replica %d and %d to replica 0", labels, results[i][labels], i, n)
			}
		}
	}
	if n, err := stored(etcd); err != nil || n != len(sets) {
		t.Errorf("%d numbers for %d label sets, error %v", n, len(sets), err)
	}
}

// BenchmarkAllocate allocates 20,000 label sets; the budget is 2 s of CPU, with
// etcd's.
func BenchmarkAllocate(b *testing.B) {
	sets := labelSets(20_000)
	for b.Loop() {
		b.StopTimer()
		etcd, stop := benchEtcd(b)
		file := filepath.Join(b.TempDir(), "identities")
		a := newAllocator(Config{Cluster: east, Etcd: etcd, Logger: quiet()}, identitySpace(east.ID, east.Size), file, func() {})
		if _, err := a.turn(b.Context()); err != nil {
			b.Fatal(err)
		}
		before := cpuTime(b)
		b.StartTimer()
		if got, err := a.assign(b.Context(), sets); err != nil || len(got) != len(sets) {
			b.Fatalf("%d numbers, error %v", len(got), err)
		}
		if err := errors.Join(a.writer.Synced(b.Context()), a.save()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		b.ReportMetric((cpuTime(b) - before).Seconds(), "cpu-s/op")
		a.stop()
		stop()
		b.StartTimer()
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchEtcd(b *testing.B) (etcd *kvstore.Client, stop func()) {
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: b.TempDir(), Logger: quiet()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	etcd, err := server.Dial(ctx)
	if err != nil {
		b.Fatal(err)
	}
	return etcd, func() {
		_ = etcd.Close()
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}
