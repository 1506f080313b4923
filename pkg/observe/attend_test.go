package observe

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// attended is an agent and a server of one process.
func attended(t *testing.T) (*bed, *source) {
	t.Helper()
	b := &bed{t: t, server: NewServer(ServerConfig{Read: BookOf(newEngine()), Logger: logger(t), Registerer: prometheus.NewRegistry()})}
	s := newSource(t)
	ctx, cancel := context.WithCancel(context.Background())
	carrying, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { b.server.Attend(ctx, "n1", s.Agent) })
	group.Go(func() {
		_ = s.Run(carrying, s.give)
	})
	s.stop = stop
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	b.eventually("n1 is there", func() bool { return b.has("n1") })
	return b, s
}

// What the agent remembers comes first, and then what happens, each event once; who
// listens is told when the agent carries nothing any more.
func TestAttend(t *testing.T) {
	b, s := attended(t)
	s.drop(1, 2, 3)
	l := b.listen(Filter{}, 2, true)
	if got, want := b.heard(l, 2), []string{"n1 2", "n1 3"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	s.drop(4, 5)
	if got, want := b.heard(l, 2), []string{"n1 4", "n1 5"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
	other := b.listen(Filter{Reasons: []string{"node"}}, 2, false)
	if items, err := other.Next(t.Context()); err == nil {
		t.Errorf("heard %v of another reason", items)
	}
	s.stop()
	if got, want := b.heard(l, 1), []string{"n1 away"}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// An agent that notes more than fits while nobody takes it counts what is lost.
func TestTap(t *testing.T) {
	a := NewAgent(AgentConfig{Logger: logger(t), Registerer: prometheus.NewRegistry()})
	a.note(dropped(1)) // nobody attends
	some := a.open()
	for range agentQueue + 3 {
		a.note(dropped(2))
	}
	<-some
	events, lost, answers := a.drain([]recall{{last: Remembered}})
	if len(events) != agentQueue || lost != 3 || len(answers) != 1 || len(answers[0]) != Remembered {
		t.Errorf("%d events, %d lost, %d remembered", len(events), lost, len(answers[0]))
	}
	if events, lost, _ := a.drain(nil); len(events)+int(lost) != 0 {
		t.Errorf("%d events, %d lost the second time", len(events), lost)
	}
	a.shut()
	a.note(dropped(3))
}
