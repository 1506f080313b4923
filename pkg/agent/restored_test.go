package agent

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// counted is a real data plane that counts what may take something away.
type counted struct {
	*datapath.Datapath
	prunes, completes atomic.Int32
}

func (c *counted) Prune(keep func(datapath.Frontend) bool) error {
	c.prunes.Add(1)
	return c.Datapath.Prune(keep)
}

func (c *counted) Complete() error {
	c.completes.Add(1)
	return c.Datapath.Complete()
}

// A state from an earlier life may be older than what is in effect: it adds, and
// takes nothing away, nor ends a socket, until an API server has said what holds.
func TestRestoredState(t *testing.T) {
	c := config(t)
	n := start(t, c)
	http := []service.Port{tcp("http", 8080)}
	db, old := service.Name{Namespace: "shop", Name: "db"}, service.Name{Namespace: "shop", Name: "old"}
	of := func(name service.Name, ip, backend string) []any {
		return []any{view(name, ip, tcp("http", 80)), slice(name, "east", http, backend)}
	}
	n.sync(true, delta(append(of(web, "10.96.0.1", "10.1.0.1"), of(db, "10.96.0.2", "10.1.0.2")...)...))
	n.stop()

	n = &node{t: t, reports: make(chan struct{})}
	plane, err := datapath.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	watched := &counted{Datapath: plane}
	n.plane = plane
	n.Agent = New(Config{Datapath: watched, Report: n.report, Logger: c.Logger})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
		_ = plane.Remove()
	})

	last := feed.Batch{
		Revision: feed.Revision{Epoch: "file", N: 1}, Snapshot: true, Restored: true,
		Delta: delta(append(of(web, "10.96.0.1", "10.1.0.1"), of(old, "10.96.0.3", "10.1.0.3")...)...),
	}
	if err := n.Apply(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	n.await("the last state", func(a feed.Applied) bool { return a.Revision == last.Revision })
	all := map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}, "10.96.0.2:80/tcp": {{"10.1.0.2:8080"}}, "10.96.0.3:80/tcp": {{"10.1.0.3:8080"}}}
	n.want(all)
	if p, c := watched.prunes.Load(), watched.completes.Load(); p+c > 0 {
		t.Errorf("pruned %d times, said to be complete %d times", p, c)
	}

	n.sync(false, delta()) // the server says that nothing differs
	delete(all, "10.96.0.2:80/tcp")
	n.want(all)
	if p, c := watched.prunes.Load(), watched.completes.Load(); p != 1 || c != 1 {
		t.Errorf("pruned %d times, said to be complete %d times", p, c)
	}
}
