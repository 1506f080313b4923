package stall

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// stage is what is held up, and which agents see it only when it is released.
type stage struct {
	name string
	// hold stops the stage and returns what releases it.
	hold func(*world) (release func())
	// behind are the agents whose maps can not follow meanwhile, or can not
	// follow the peer.
	behind []string
	peer   bool   // only what the peer says is held up
	held   string // the daemon that stands still itself, if one does
}

var all = []string{"e1", "e2", "e3"}

// patience bounds what is no matter of a release.
const patience = time.Minute

func stages() []stage {
	return []stage{
		{"peer's gateway", func(w *world) func() { return pause(w, w.west.APIServer()) }, all, true, "API server of west"},
		{"own etcd", func(w *world) func() {
			// Of the peer, which then publishes nothing, and of the cluster whose
			// agents are looked at, which follow its own changes all the same.
			w.etcd[w.west].freeze()
			w.etcd[w.east].freeze()
			return func() {
				w.etcd[w.west].thaw()
				w.etcd[w.east].thaw()
			}
		}, all, true, ""},
		{"feed", func(w *world) func() { return pause(w, w.proxy) }, []string{"e2"}, false, ""},
		{"agent", func(w *world) func() {
			pid := childOf(w.agent("e1").Agent().PID())
			signal(w, pid, syscall.SIGSTOP)
			return func() { signal(w, pid, syscall.SIGCONT) }
		}, []string{"e1"}, false, "agent of e1"},
		{"map", func(w *world) func() { return pause(w, w.agent("e3").Agent()) }, []string{"e3"}, false, ""},
	}
}

func pause(w *world, p *lab.Process) (release func()) {
	w.t.Helper()
	if err := p.Pause(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if err := p.Resume(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func signal(w *world, pid int, s syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		w.t.Fatal(err)
	}
}

// Whatever stage stands still while changes keep coming: no process grows by what
// piles up, nobody else is behind, and all maps are right soon after it goes on.
func TestStall(t *testing.T) {
	w := newWorld(t)
	w.awaitMaps(patience, all...)

	w.memory.take()
	before := w.changes()
	stop := w.churn()
	time.Sleep(max(*length, 5*time.Second)) // the load itself, to compare with
	usual := use{live: w.lives()}
	stop()
	w.awaitMaps(patience, all...)
	usual.anonymous = w.memory.take()
	t.Log("under load alone: ", usual)
	if n := w.changes() - before; n < services+pods {
		t.Errorf("the load is none: the peer made %d changes", n)
	} else {
		t.Logf("the peer made %d changes meanwhile", n)
	}

	for _, s := range stages() {
		if !w.stall(s, usual) {
			return
		}
	}
}

// use is the memory of daemons by name: live in bytes, anonymous in KiB.
type use struct{ live, anonymous map[string]int }

func (u use) String() string {
	out := ""
	for _, name := range slices.Sorted(maps.Keys(u.anonymous)) {
		out += fmt.Sprintf("%s %d MiB live, %d MiB anonymous; ", name, u.live[name]>>20, u.anonymous[name]>>10)
	}
	return out
}

func (w *world) stall(s stage, usual use) bool {
	return w.t.Run(s.name, func(t *testing.T) {
		outer := w.t
		w.t = t
		defer func() { w.t = outer }()

		w.memory.take()
		stop := w.churn()
		release := s.hold(w)
		released := false
		defer func() {
			if !released {
				release()
			}
		}()
		time.Sleep(*length) // the stall itself
		worst := use{live: w.lives(s.held)}
		stop()
		w.others(s)
		release()
		released = true
		took := w.awaitMaps(soon, s.behind...)
		worst.anonymous = w.memory.take()
		t.Logf("maps are right %s after the release; at worst: %s", took.Round(time.Millisecond), worst)
		for name, n := range worst.live {
			if grown := n - usual.live[name]; grown > mostLiveGrowth {
				t.Errorf("%s has %d MiB more in use than without the stall", name, grown>>20)
			}
		}
		for name, n := range worst.anonymous {
			if grown := n - usual.anonymous[name]; grown > mostAnonymousGrowth {
				t.Errorf("%s took %d MiB more than without the stall", name, grown>>10)
			}
		}
	})
}

// others checks that who is not behind the stage is not: agents beside it, and
// with a stage of the peer the own cluster's part.
func (w *world) others(s stage) {
	w.t.Helper()
	if s.peer {
		w.await(patience, own, all...)
		return
	}
	var rest []string
	for _, name := range all {
		if !slices.Contains(s.behind, name) {
			rest = append(rest, name)
		}
	}
	w.awaitMaps(patience, rest...)
}

// own leaves the backends of east.
func own(services map[string][]string) map[string][]string {
	for name, list := range services {
		services[name] = slices.DeleteFunc(list, func(b string) bool { return !strings.HasPrefix(b, "10.1.") })
	}
	return services
}
