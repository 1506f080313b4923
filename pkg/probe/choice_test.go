package probe

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// good is what nodes find where the network carries packets.
func allGood() evidence { return evidence{nodes: 2, paths: 4, good: 4} }

func broken() evidence {
	return evidence{nodes: 2, paths: 4, good: 3, bad: 1, node: "n1", trouble: Trouble{Reason: reasonMasquerade, Detail: "our 10.1.0.1 became 192.0.2.1", Node: "w1 (10.2.0.1)"}}
}

func TestChoice(t *testing.T) {
	c, now := newChoice(), time.Unix(1700000000, 0)
	step := func(after time.Duration, e evidence, mode route.Mode, search route.Search, reason string) {
		t.Helper()
		now = now.Add(after)
		c.weigh("west", now, e)
		if c.mode != mode || c.search != search || !strings.Contains(c.reason, reason) {
			t.Errorf("after %s: %s, %s, %q, want %s, %s, %q", after, c.mode, c.search, c.reason, mode, search, reason)
		}
	}
	second := time.Second
	step(0, evidence{}, route.VXLAN, route.Unfit, "no agent has said yet")
	step(second, evidence{nodes: 1, trouble: Trouble{Reason: reasonNoPeerPod}}, route.VXLAN, route.Unfit, "no probe pod in west")
	step(second, evidence{nodes: 1, trouble: Trouble{Reason: reasonNoPod}}, route.VXLAN, route.Unfit, "no probe pod in this cluster")
	step(second, evidence{nodes: 1, paths: 2}, route.VXLAN, route.Unfit, "not asked often enough")
	step(second, allGood(), route.VXLAN, route.Unfit, "have to for 10s")
	step(9*second, allGood(), route.VXLAN, route.Unfit, "have to for 10s")
	partly := evidence{nodes: 2, paths: 4, good: 3, trouble: Trouble{Reason: reasonMute, Detail: "10.1.0.9"}, node: "n2"}
	step(second, partly, route.VXLAN, route.Unfit, "1 of 4 ways between probe pods are not known yet: the probe pod of this node does not answer its agent: 10.1.0.9, from n2")
	step(second, allGood(), route.VXLAN, route.Unfit, "have to for 10s")
	against := allGood()
	against.against = 1
	step(10*second, against, route.VXLAN, route.Fit, "west keeps to its tunnel")
	step(second, allGood(), route.Native, route.Fit, "on 4 of 4 ways")
	step(second, partly, route.Native, route.Fit, "on 3 of 4 ways") // what is not known is no reason to go back
	step(second, broken(), route.VXLAN, route.Unfit, "the source address of packets is changed on the network's own way, so native routing is of no use: our 10.1.0.1 became 192.0.2.1, from n1 to w1 (10.2.0.1) (1 of 4 ways between probe pods)")

	// What did not last has to be good for twice as long.
	step(second, allGood(), route.VXLAN, route.Unfit, "have to for 20s")
	step(19*second, allGood(), route.VXLAN, route.Unfit, "have to for 20s")
	step(second, allGood(), route.Native, route.Fit, "")
	// The other side goes back first.
	step(second, against, route.VXLAN, route.Unfit, "west keeps to its tunnel")
	step(second, allGood(), route.VXLAN, route.Unfit, "have to for 40s")
	step(38*second, against, route.VXLAN, route.Unfit, "have to for 40s") // both sides may wait at a time
	step(second, against, route.VXLAN, route.Fit, "west keeps to its tunnel")
	step(second, allGood(), route.Native, route.Fit, "")
	// Nothing is known for a moment, as probe pods are made anew.
	step(second, evidence{nodes: 1, paths: 1}, route.Native, route.Fit, "as before, until nothing is known for 10s")
	step(blindTime-second, evidence{nodes: 1, trouble: Trouble{Reason: reasonNoPod}}, route.Native, route.Fit, "no probe pod in this cluster")
	step(second/2, allGood(), route.Native, route.Fit, "")
	step(blindTime, evidence{nodes: 1, paths: 1}, route.Native, route.Fit, "")
	step(second, broken(), route.VXLAN, route.Unfit, "")
	step(second, allGood(), route.VXLAN, route.Unfit, "")
	step(calmLimit, allGood(), route.Native, route.Fit, "")
	// All probe pods go, after a long time in which all was well.
	step(calmLimit, evidence{}, route.Native, route.Fit, "no agent has said")
	step(blindTime, evidence{}, route.VXLAN, route.Unfit, "no agent has said")
	step(second, allGood(), route.VXLAN, route.Unfit, "have to for 10s")
	for range 20 { // up to the limit
		step(calmLimit, allGood(), route.Native, route.Fit, "")
		step(second, broken(), route.VXLAN, route.Unfit, "")
		step(second, allGood(), route.VXLAN, route.Unfit, "have to for ")
	}
	if c.calm != calmLimit {
		t.Errorf("waits for %s at most", c.calm)
	}
}

// TestChoiceHearsay: who makes up what the other side thinks cannot have packets go to
// and fro as he likes.
func TestChoiceHearsay(t *testing.T) {
	c, now, switches := newChoice(), time.Unix(1700000000, 0), 0
	for range int(time.Hour / time.Second) {
		now = now.Add(time.Second)
		e, mode := allGood(), c.mode
		if mode == route.Native {
			e.against = 1
		}
		if c.weigh("west", now, e); c.mode != mode {
			switches++
		}
	}
	// To the network after 10, 20, 40, ... s, up to 10 minutes: some eleven times an hour.
	if switches > 24 {
		t.Errorf("%d switches in an hour", switches)
	}
}

func TestChooser(t *testing.T) {
	now := time.Unix(1700000000, 0)
	registry := prometheus.NewRegistry()
	c := NewChooser(ChooserConfig{
		Auto: func(cluster string) bool { return cluster != "north" }, Logger: slog.New(slog.DiscardHandler), Registerer: registry,
	})
	native := func(cluster string, reachable int) Summary {
		return Summary{Cluster: cluster, Mode: route.Native, Paths: 2, Reachable: reachable, Unreachable: 2 - reachable}
	}
	reports := func(reachable int) map[string]*Report {
		return map[string]*Report{
			"n1":  {Time: now, Summaries: []Summary{{Cluster: "west", Mode: route.VXLAN, Paths: 1, Unreachable: 1}, native("west", 2), native("north", 2)}},
			"n2":  {Time: now, Summaries: []Summary{native("west", reachable)}},
			"old": {Time: now.Add(-Stale), Summaries: []Summary{native("west", 0)}},
		}
	}
	if mode, search := c.Way("west"); mode != route.VXLAN || search != route.Unfit || !strings.HasPrefix(c.Reason("west"), "auto: vxlan, no agent") || c.Reason("north") != "" {
		t.Errorf("%s, %s, %q, %q", mode, search, c.Reason("west"), c.Reason("north"))
	}
	for _, step := range []struct {
		reachable int
		changed   []string
		mode      route.Mode
		natives   float64
	}{{2, nil, route.VXLAN, 0}, {2, []string{"west"}, route.Native, 1}, {2, nil, route.Native, 1}, {1, []string{"west"}, route.VXLAN, 0}} {
		changed := c.weigh(now, reports(step.reachable))
		if mode, _ := c.Way("west"); mode != step.mode || !slices.Equal(changed, step.changed) || c.natives() != step.natives {
			t.Errorf("%s, changed %v, %v native, want %+v", mode, changed, c.natives(), step)
		}
		now = now.Add(calmFirst)
	}
	if mode, search := c.Way("north"); mode != route.VXLAN || search != route.Unfit {
		t.Errorf("of a peer whose mode was set: %s, %s", mode, search)
	}
	families, err := registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() != "causeway_probe_mode_switches_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if n := m.GetCounter().GetValue(); n != 1 {
				t.Errorf("%v switches to %s", n, m.GetLabel()[0].GetValue())
			}
		}
	}
	// Without any report nothing is known.
	if changed := c.weigh(now, nil); len(changed) != 0 || !strings.Contains(c.Reason("west"), "no agent has said") {
		t.Errorf("%v, %s", changed, c.Reason("west"))
	}
}

// TestChooserRuns: who is told hears of it by itself.
func TestChooserRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed := make(chan string, 1)
		c := NewChooser(ChooserConfig{
			Auto: func(string) bool { return true }, Changed: func(cluster string) { changed <- cluster }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
			Reports: func() map[string]*Report {
				return map[string]*Report{"n1": {Time: time.Now(), Summaries: []Summary{{Cluster: "west", Mode: route.Native, Paths: 1, Reachable: 1}}}}
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		start := time.Now()
		go func() { done <- c.Run(ctx) }()
		if got := <-changed; got != "west" || time.Since(start) < calmFirst {
			t.Errorf("%s after %s", got, time.Since(start))
		}
		cancel()
		must(t, <-done)
	})
}
