package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
)

// pass is the work of one reconcile.
type pass struct {
	revision feed.Revision
	restored bool // see Agent
	services int  // in the whole state
	// updates are frontends whose owner says so, released those that somebody
	// gave up.
	updates  map[datapath.Frontend]datapath.Service
	released map[datapath.Frontend]bool
}

// reconcile brings the data plane closer to the state, and returns after how long
// to try again, 0 when everything is in effect.
func (a *Agent) reconcile() time.Duration {
	start := time.Now()
	p, ok := a.collect()
	if !ok {
		return 0
	}
	var err error
	if !p.restored {
		err = a.prune()
	}
	a.delete(p)
	a.update(p)
	if err == nil && len(a.retryable()) == 0 && !p.restored {
		err = a.config.Datapath.Complete()
	}
	a.metrics.duration.Observe(time.Since(start).Seconds())
	return a.finish(p, err)
}

// collect takes what has changed and works out what it asks for. It reports
// false while there is no complete state.
func (a *Agent) collect() (*pass, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.synced {
		return nil, false
	}
	if n := len(a.state.dirty); len(a.claims.byService)+len(a.inEffect) == 0 {
		// The first state is most of what there will be: room for it at once.
		a.claims, a.inEffect = newClaims(n), make(map[datapath.Frontend]int, n)
	}
	p := &pass{
		revision: a.revision,
		restored: a.restored,
		services: len(a.state.offers),
		updates:  make(map[datapath.Frontend]datapath.Service, len(a.state.dirty)),
		released: map[datapath.Frontend]bool{},
	}
	for _, f := range a.retryable() {
		p.released[f] = true
		if owner, ok := a.claims.owner(f); ok {
			a.state.dirty[owner] = true
		}
	}
	for len(a.state.dirty) > 0 {
		a.look(p)
	}
	return p, true
}

// look works out the services that are dirty. One that gives up a frontend may
// make another dirty that had claimed it too.
func (a *Agent) look(p *pass) {
	dirty := a.state.takeDirty()
	all := make([][]datapath.Service, len(dirty))
	for i, name := range dirty {
		all[i] = a.state.services(name)
		for _, f := range a.claims.set(name, all[i]) {
			p.released[f] = true
			delete(p.updates, f)
			if owner, ok := a.claims.owner(f); ok {
				a.state.dirty[owner] = true
			}
		}
	}
	for i, name := range dirty {
		for _, s := range all[i] {
			if owner, _ := a.claims.owner(s.Frontend); owner == name {
				p.updates[s.Frontend] = s
			}
		}
	}
}

// prune deletes once what the data plane has from earlier times and nobody wants.
func (a *Agent) prune() error {
	if a.pruned {
		return nil
	}
	err := a.config.Datapath.Prune(func(f datapath.Frontend) bool {
		_, ok := a.claims.owner(f)
		return ok
	})
	a.pruned = err == nil
	return err
}

// delete takes out of effect what nobody claims any more.
func (a *Agent) delete(p *pass) {
	for f := range p.released {
		if _, ok := a.claims.owner(f); ok {
			continue
		}
		if err := a.config.Datapath.Delete(f); err != nil {
			a.failures[f] = err
			continue
		}
		a.backends -= a.inEffect[f]
		delete(a.inEffect, f)
		delete(a.failures, f)
	}
}

func (a *Agent) update(p *pass) {
	services := slices.AppendSeq(make([]datapath.Service, 0, len(p.updates)), maps.Values(p.updates))
	for i, err := range a.config.Datapath.UpdateAll(services) {
		s, f := services[i], services[i].Frontend
		if err != nil {
			a.failures[f] = err
			continue
		}
		count := 0
		for _, g := range s.Groups {
			count += g.Size()
		}
		a.backends += count - a.inEffect[f]
		a.inEffect[f] = count
		delete(a.failures, f)
	}
}

// retryable returns the frontends that failed for a reason that can pass without
// the service changing.
func (a *Agent) retryable() []datapath.Frontend {
	var retry []datapath.Frontend
	for f, err := range a.failures {
		if !errors.Is(err, datapath.ErrService) {
			retry = append(retry, f)
		}
	}
	return retry
}

// finish reports how far the node is, and returns when to try again.
func (a *Agent) finish(p *pass, err error) time.Duration {
	retry := err != nil || len(a.retryable()) > 0
	if err == nil {
		err = a.failure()
	}
	a.applied.Counts = feed.Counts{Services: p.services, Frontends: len(a.inEffect), Backends: a.backends}
	a.applied.Error = ""
	if err != nil {
		a.applied.Error = err.Error()
	}
	if !retry {
		if a.applied.Revision == (feed.Revision{}) {
			a.config.Logger.Info("the first complete state is in effect", "services", p.services, "frontends", len(a.inEffect), "backends", a.backends)
		}
		a.applied.Revision = p.revision
	}
	a.metrics.set(a.applied.Counts, a.failures)
	if a.config.Report != nil {
		a.config.Report(a.applied)
	}
	return a.schedule(err, retry)
}

// failure sums up what is not in effect: one of them, and how many there are. The
// one is always the same, so that the text changes only when the failures do.
func (a *Agent) failure() error {
	if len(a.failures) == 0 {
		return nil
	}
	first := slices.SortedFunc(maps.Keys(a.failures), func(x, y datapath.Frontend) int {
		return x.Addr.Compare(y.Addr)
	})[0]
	owner, _ := a.claims.owner(first)
	return fmt.Errorf("%d frontends are not in effect, %v of %v among them: %w", len(a.failures), first, owner, a.failures[first])
}

// schedule logs what changed about the failures and returns the next delay.
func (a *Agent) schedule(err error, retry bool) time.Duration {
	log, was := a.config.Logger, a.logged
	a.logged = ""
	if err != nil {
		a.logged = err.Error()
	}
	delay := time.Duration(0)
	if retry {
		delay = a.retry.Next()
	} else {
		a.retry.Reset()
	}
	switch {
	case was == a.logged:
	case err == nil:
		log.Info("everything is in effect again")
	case errors.Is(err, datapath.ErrFull):
		log.Error("the data plane is full: the last good state stays in effect", "error", err, "attempt", a.retry.Attempts(), "delay", delay)
	default:
		log.Warn("not everything is in effect", "error", err, "attempt", a.retry.Attempts(), "delay", delay)
	}
	return delay
}
