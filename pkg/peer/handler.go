package peer

import (
	"context"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
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
		s.change(func() { s.facts.config, s.facts.verdict = nil, nil })
		return
	}
	config, err := wire.DecodeConfig(s.name, change.Value)
	if err != nil {
		s.refuse(change.Key, err)
		s.change(func() { s.facts.config, s.facts.verdict = nil, err })
		return
	}
	s.change(func() { s.facts.config, s.facts.verdict = &config, nil })
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
	s.change(func() { s.facts.trouble = err })
}

// data follows what a peer publishes.
type data struct {
	*session
	layout wire.Layout
	first  bool // the first listing of this attempt is complete
}

// Changes implements kvstore.Handler: memory first, then the cache.
func (d *data) Changes(_ context.Context, changes []kvstore.Change) error {
	update := newUpdate()
	for _, c := range changes {
		kind := kindOf(d.layout, c.Key)
		cached := rename(c.Key, kind, d.layout, d.cache.layout)
		if err := put(&update, d.layout, kind, c); err != nil {
			d.refuse(c.Key, err)
			d.keep(cached)
			continue
		}
		if c.Deleted {
			delete(d.known, cached)
			d.cache.state.Delete(cached)
			continue
		}
		d.known[cached] = d.attempt
		d.cache.state.Set(cached, c.Value)
	}
	if update.Len() > 0 {
		d.engine.Apply(d.name, update)
	}
	d.metrics.changes(d.name, len(changes))
	d.change(func() { d.lastChange = time.Now() })
	return nil
}

// keep holds on to a key whose new value is refused: it is not gone.
func (d *data) keep(cached string) {
	if _, ok := d.known[cached]; ok {
		d.known[cached] = d.attempt
	}
}

// Complete implements kvstore.Handler. After the first listing of an attempt,
// what was known before and is not in it is gone; from then on the handler is
// told of deletions.
func (d *data) Complete(context.Context) error {
	if !d.first {
		d.first = true
		d.forget()
		if config := d.currentConfig(); config != nil {
			if err := d.cache.setConfig(*config); err != nil {
				return err
			}
		}
		d.cache.complete()
	}
	d.change(func() { d.facts.trouble, d.facts.complete = nil, true })
	return nil
}

func (d *data) currentConfig() *cluster.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.facts.config
}

func (d *data) forget() {
	update := newUpdate()
	for key, attempt := range d.known {
		if attempt == d.attempt {
			continue
		}
		gone := kvstore.Change{Key: key, Deleted: true}
		if err := put(&update, d.cache.layout, kindOf(d.cache.layout, key), gone); err != nil {
			d.refuse(key, err) // it was decoded before, so its key is good
		}
		delete(d.known, key)
		d.cache.state.Delete(key)
	}
	if update.Len() > 0 {
		d.engine.Apply(d.name, update)
	}
}

// Trouble implements kvstore.Handler.
func (d *data) Trouble(err error) {
	d.change(func() { d.facts.trouble = err })
}
