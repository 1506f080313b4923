package peer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// control follows what a peer says about itself: config, markers, heartbeat.
type control session

// Changes implements kvstore.Handler.
func (c *control) Changes(_ context.Context, changes []kvstore.Change) error {
	s := (*session)(c)
	for _, change := range changes {
		switch {
		case change.Key == wire.HeartbeatKey:
			s.change(func() { s.heartbeat = time.Now() })
		case change.Key == wire.ConfigKey(s.name):
			s.config(change)
		default:
			s.marker(change)
		}
	}
	s.wake()
	return nil
}

func (s *session) wake() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

func (s *session) config(change kvstore.Change) {
	if change.Deleted {
		s.change(func() { s.facts.config, s.facts.malformed = nil, nil })
		return
	}
	config, err := wire.DecodeConfig(s.name, change.Value)
	if err != nil {
		s.refuse("", change.Key, err)
		s.change(func() { s.facts.config, s.facts.malformed = nil, err })
		return
	}
	s.change(func() { s.facts.config, s.facts.malformed = &config, nil })
	s.moves(change)
}

// moves tells on by which addresses the peer says that it is reached.
func (s *session) moves(config kvstore.Change) {
	addresses := wire.DecodeGateway(config.Value)
	if len(addresses) == 0 {
		return
	}
	err := stranger.CheckAddresses(addresses)
	for _, a := range addresses {
		if err == nil {
			err = checkEndpoint("https://" + a) // as it will stand in the peer's file
		}
	}
	if err != nil {
		s.refuse("", config.Key, fmt.Errorf("%w: gateway: %w", wire.ErrMalformed, err))
		return
	}
	s.reached(addresses)
}

func (s *session) marker(change kvstore.Change) {
	for _, cached := range []bool{false, true} {
		l := wire.Layout{Cluster: s.name, Cached: cached}
		for _, kind := range wire.Kinds() {
			if l.Marker(kind) == change.Key {
				s.change(func() { s.markers[kind] = !change.Deleted })
			}
		}
	}
}

// Complete implements kvstore.Handler.
func (c *control) Complete(context.Context) error {
	s := (*session)(c)
	s.change(func() { s.facts.answered, s.facts.trouble = true, nil })
	s.wake()
	return nil
}

// Trouble implements kvstore.Handler.
func (c *control) Trouble(err error) {
	s := (*session)(c)
	err = s.explain(err)
	s.change(func() { s.facts.trouble = err })
}

// data follows what a peer publishes. What is read goes through the intake;
// apply, and then nobody else, puts it in use.
type data struct {
	*session
	layout wire.Layout
	intake *intake
	first  bool        // the first listing of this attempt is complete
	listed atomic.Bool // the same, for the goroutine of the intake
}

func newData(s *session, l wire.Layout) *data {
	d := &data{session: s, layout: l}
	d.intake = newIntake(func(key string) int { return slices.Index(inOrder(), kindOf(l, key)) }, d.apply)
	return d
}

// Changes implements kvstore.Handler. It waits while the peer says more than
// can be put in use.
func (d *data) Changes(ctx context.Context, changes []kvstore.Change) error {
	d.metrics.changes(d.name, len(changes))
	d.change(func() { d.lastChange = time.Now() })
	return d.intake.add(ctx, changes)
}

// apply puts changes in use.
func (d *data) apply(changes []kvstore.Change) {
	d.deliver(d.layout, changes)
	if d.listed.Load() {
		d.pin()
	}
}

// Complete implements kvstore.Handler. After the first listing of an attempt,
// what was known before and is not in it is gone; from then on the handler is
// told of deletions.
func (d *data) Complete(ctx context.Context) error {
	if !d.first {
		if err := d.intake.flush(ctx); err != nil {
			return err
		}
		d.first = true
		d.forget()
		d.pin()
		d.listed.Store(true)
		if config := d.currentConfig(); config != nil {
			if err := d.cache.setConfig(*config); err != nil {
				return err
			}
		}
		d.cache.complete()
	}
	d.change(func() { d.facts.behind, d.facts.complete = nil, true })
	return nil
}

func (d *data) currentConfig() *cluster.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.facts.config
}

// forget takes out of use what this attempt has not seen. The intake is empty.
func (d *data) forget() {
	var gone [][]kvstore.Change
	for range inOrder() {
		gone = append(gone, nil)
	}
	for key, e := range d.known {
		if e.attempt == d.attempt {
			continue
		}
		kind := kindOf(d.cache.layout, key)
		at := len(gone) - 1 - slices.Index(inOrder(), kind)
		gone[at] = append(gone[at], kvstore.Change{Key: rename(key, kind, d.cache.layout, d.layout), Deleted: true})
	}
	for _, piece := range cut(gone) {
		d.apply(piece)
	}
}

// Trouble implements kvstore.Handler.
func (d *data) Trouble(err error) {
	if errors.Is(err, kvstore.ErrNotReady) {
		return // control says which marker is missing
	}
	err = d.explain(err)
	d.change(func() { d.facts.behind = err })
}
