package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/bench/mesh"
	"github.com/causeway-mesh/causeway/tests/lab"
)

const (
	// hostilePairs is how often each attack is measured, with and without.
	hostilePairs = 5
	// hostileSpan is for how long keys of the honest peer change in each half, at
	// churnRate.
	hostileSpan = 6 * time.Second
	// hostileSettle is for how long an attack is let begin, and its end be worked off.
	hostileSettle = time.Second
	// hostileFloor is below what a p99 counts as this, ms.
	hostileFloor = 20
	// hostileBudget is how much longer an honest peer's changes may take.
	hostileBudget = 2
)

// The core of peers that attack, and that of all else.
const (
	hostileCPU = 1
	honestCPU  = 0
)

// honest is the peer whose changes are followed, small enough that the rest of the
// machine is for the attack.
func honest() mesh.Spec {
	return mesh.Spec{Clusters: 1, Nodes: 100, Identities: 500, Addresses: 5000, Services: 1000, Backends: 3}
}

// rowHostile measures how long changes of an honest peer take while another one
// does what a cluster that was taken over might. That one has a core for itself, and
// everything else has the other core, attacked or not.
func rowHostile(ctx context.Context, b *syncBench) (err error) {
	if b.result.CPUs < 2 {
		return errors.New("two CPUs are needed, one for who attacks")
	}
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("ask for the allowed CPUs: %w", err)
	}
	if err := pinAll(honestCPU); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, allow(&before)) }()
	return b.with(ctx, worldConfig{spec: honest(), files: memoryDir}, func(w *world) error {
		if err := w.start(ctx); err != nil {
			return err
		}
		if _, _, _, err := b.bootstrap(ctx, w); err != nil {
			return err
		}
		var meter churnMeter
		for i, a := range attacks() {
			if err := b.attack(ctx, w, &meter, i, a); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		return nil
	})
}

// attack measures one attack, in pairs of halves.
func (b *syncBench) attack(ctx context.Context, w *world, meter *churnMeter, i int, a attack) (err error) {
	process, err := w.startAttacker(ctx, i, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.Kill()) }()
	var with, without []float64
	for pair := range hostilePairs {
		halves := []bool{false, true}
		if pair%2 == 1 { // who goes first may have it better or worse
			slices.Reverse(halves)
		}
		for _, attacked := range halves {
			p99, err := meter.half(ctx, w, process, attacked)
			if err != nil {
				return err
			}
			if attacked {
				with = append(with, p99)
			} else {
				without = append(without, p99)
			}
		}
	}
	ratio := bootstrap(quotients(floored(with), floored(without)), rand.New(rand.NewPCG(1, 2)))
	b.keep(
		b.add(a.name+": an honest peer's p99, put to map, undisturbed", median(without), "ms"),
		b.add(a.name+": attacked", median(with), "ms"),
		b.add(fmt.Sprintf("%s: attacked to undisturbed, from %d ms (95 %%: %.2f to %.2f)", a.name, hostileFloor, ratio.Low, ratio.High), ratio.Value, "").atMost(hostileBudget),
	)
	return nil
}

// floored has no value be below the floor.
func floored(values []float64) (out []float64) {
	for _, v := range values {
		out = append(out, max(v, hostileFloor))
	}
	return out
}

// churnMeter makes changes that were not made before.
type churnMeter struct{ next int }

// half returns the p99 of the honest peer's changes in ms. The attacker stands still
// but in the half in which it attacks.
func (m *churnMeter) half(ctx context.Context, w *world, attacker *lab.Process, attacked bool) (p99 float64, err error) {
	if attacked {
		if err := attacker.Resume(); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, still(ctx, attacker)) }()
		if err := sleep(ctx, hostileSettle); err != nil {
			return 0, err
		}
	}
	n := int(hostileSpan.Seconds() * churnRate)
	watch, err := w.churn(ctx, m.next, n)
	if err != nil {
		return 0, err
	}
	m.next += n
	return quantile(milliseconds(watch.delays), 0.99), nil
}

// still lets an attacker stand still, until what it said has been worked off.
func still(ctx context.Context, attacker *lab.Process) error {
	if err := attacker.Pause(ctx); err != nil {
		return fmt.Errorf("%w; the attacker's last words:\n%s", err, attacker.Tail())
	}
	return sleep(ctx, hostileSettle)
}

// startAttacker starts the i-th attacker, has the own cluster read it, and lets it
// stand still once it was read.
func (w *world) startAttacker(ctx context.Context, i int, a attack) (*lab.Process, error) {
	index := i + 1 // the honest one is the first
	r := mesh.Remote{Spec: w.spec, Index: index}
	if err := w.addServices(r); err != nil {
		return nil, err
	}
	outside, err := w.lab.AddCluster(ctx, lab.ClusterSpec{Name: "attacker-" + strconv.Itoa(index), ID: index + 1})
	if err != nil {
		return nil, err
	}
	address := netip.AddrFrom4([4]byte{198, 18, 2, byte(index)})
	node, err := outside.AddNode(ctx, lab.NodeSpec{Name: "gateway", IPs: []netip.Addr{address}})
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(w.dir, "attacker-"+strconv.Itoa(index))
	process, err := node.Start(ctx, lab.Command{
		Name: "attacker", Path: "/proc/self/exe", Ready: true,
		Args: []string{partHostile, a.name, strconv.Itoa(index), dir, netip.AddrPortFrom(address, peerPort).String()},
	})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, hostileFile))
	if err != nil {
		return nil, err
	}
	if err := w.here.WritePeer(r.Name(), text); err != nil {
		return nil, err
	}
	return process, errors.Join(w.awaitCached(ctx, w.spec.Clusters+index), still(ctx, process))
}

// addServices gives the own cluster the services of a remote one.
func (w *world) addServices(r mesh.Remote) error {
	file, err := os.Create(filepath.Join(w.here.ManifestsDir(), r.Name()+".yaml"))
	if err != nil {
		return err
	}
	return errors.Join(r.WriteServices(file), file.Close())
}

// pinAll has all threads of this process, and what they start, run on one CPU.
func pinAll(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return allow(&set)
}

// allow does so for a set of CPUs. A thread inherits from the one that makes it, so
// once all that are there have the set, those to come have it, too.
func allow(set *unix.CPUSet) error {
	done := map[int]bool{}
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		more := false
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil || done[id] {
				continue
			}
			if err := unix.SchedSetaffinity(id, set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set the CPUs of thread %d: %w", id, err)
			}
			done[id], more = true, true
		}
		if !more {
			return nil
		}
	}
}
