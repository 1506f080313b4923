// Package agent makes the data plane of a node do what the feed says. It keeps
// the newest state of the feed, works out which connections that asks for, and
// tries until they are in effect:
//
//   - Nothing is changed before the feed has given one complete state, and
//     nothing taken away before an API server has said that it holds.
//   - What is in effect already is not written again, after a restart neither.
//   - A service that cannot be put in effect keeps its last good state, and
//     costs no other service anything.
package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

// Datapath is what the agent asks of a data plane. All may be repeated; an error
// leaves what was in effect before.
type Datapath interface {
	// UpdateAll puts services in effect, each whole or not at all, and returns an
	// error for each that is not. Delete takes one out.
	UpdateAll([]datapath.Service) []error
	Delete(datapath.Frontend) error
	// Prune deletes every service that keep does not want.
	Prune(keep func(datapath.Frontend) bool) error
	// Complete says that everything that should be in effect is.
	Complete() error
}

// Config is what New needs.
type Config struct {
	Datapath Datapath
	// Cluster and Node are where this agent runs: a service may use backends of
	// its own node alone.
	Cluster, Node string
	// Report, if not nil, is told after each attempt what is in effect. It must
	// not block.
	Report     func(feed.Applied)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Agent is a feed.Sink that drives a Datapath.
type Agent struct {
	config  Config
	metrics *metrics
	wake    chan struct{}

	mu       sync.Mutex
	state    *state
	revision feed.Revision
	synced   bool // a complete state has arrived
	restored bool // it is from an earlier life, and may be older than what is in effect

	// Run's own.
	claims   *claims
	inEffect map[datapath.Frontend]int // number of backends
	backends int                       // their sum
	failures map[datapath.Frontend]error
	pruned   bool
	applied  feed.Applied
	retry    retry.Backoff
	logged   string // the error that was logged last
}

// New returns an Agent that has nothing to do yet.
func New(c Config) *Agent {
	return &Agent{
		config:   c,
		metrics:  newMetrics(c.Registerer),
		wake:     make(chan struct{}, 1),
		state:    newState(self{c.Cluster, c.Node}),
		claims:   newClaims(0),
		inEffect: map[datapath.Frontend]int{},
		failures: map[datapath.Frontend]error{},
		retry:    retry.Backoff{First: 100 * time.Millisecond, Limit: 30 * time.Second},
	}
}

// Apply takes over a batch of the feed. It never blocks and never fails; Run puts
// the batch in effect, together with what comes meanwhile.
func (a *Agent) Apply(_ context.Context, b feed.Batch) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.Snapshot {
		a.state.replace(b.Delta)
		a.synced = true
	} else {
		a.state.apply(b.Delta)
	}
	a.revision, a.restored = b.Revision, b.Restored
	select {
	case a.wake <- struct{}{}:
	default: // Run will see this batch too
	}
	return nil
}

// Run puts in effect what Apply is given, and tries again what failed, until ctx
// is done. What is in effect then stays. It returns nil.
func (a *Agent) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-a.wake:
		case <-timer.C:
		}
		if delay := a.reconcile(); delay > 0 {
			timer.Reset(delay)
		} else {
			timer.Stop()
		}
	}
}
