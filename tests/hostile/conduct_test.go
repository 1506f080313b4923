package hostile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
)

// TestConduct has peers behave as no store does, from their first connection on
// and later. What they said before stays in use, nothing else comes in, others are
// followed, and so are they when they behave again.
func TestConduct(t *testing.T) {
	w := newWorld(t)
	w.start()
	honest := &peer{of: "honest"}
	var first, later []*peer
	cases := conducts()
	for _, c := range cases {
		first = append(first, &peer{of: "from the first: " + c.name})
		later = append(later, &peer{of: c.name})
	}
	var told []*peer // who say something else of themselves
	for _, c := range configs() {
		told = append(told, &peer{of: "config that says " + c.name})
	}
	all := append(append(append([]*peer{}, first...), later...), told...)
	w.serve(append([]*peer{honest}, all...)...)
	for _, p := range w.peers {
		p.Say(p.about()...)
		p.says(good(p.base())...)
	}
	w.connect(honest)
	w.settled(honest)
	w.connect(append(append([]*peer{}, later...), told...)...)
	t.Run("before", func(t *testing.T) { report(t, append(later, told...), w.settle(append(later, told...), w.right)) })

	for i, c := range cases {
		c.start(first[i])
		c.start(later[i])
	}
	w.connect(first...)
	for i, c := range configs() {
		if c.drains {
			clear(told[i].model)
		}
		told[i].Say(rogue.Pair{Key: wire.ConfigKey(told[i].name), Value: c.value(told[i])})
	}
	honest.grow()
	wrong := w.settle(all, func(s *sight, p *peer) error {
		for i, c := range cases {
			if p == first[i] || p == later[i] {
				return w.bent(s, p, c, p == first[i])
			}
		}
		why := configs()[slices.Index(told, p)].why
		if got := s.sessions[p.name]; got.State == "synced" || !strings.Contains(got.Reason, why) {
			return fmt.Errorf("the session is %s: %s", got.State, got.Reason)
		}
		return s.matches(p)
	})
	t.Run("meanwhile", func(t *testing.T) { report(t, all, wrong) })
	w.settled(honest)

	for _, p := range told {
		p.says(good(p.base())...)
	}
	for _, p := range all {
		p.Bend(rogue.Tamper{})
		p.pipes.bend(nil)
		p.Say(p.about()...)
		p.grow()
	}
	t.Run("after", func(t *testing.T) { report(t, all, w.settle(all, w.same)) })
}

// start has a peer misbehave.
func (c conduct) start(p *peer) {
	if c.bend != nil {
		p.Bend(c.bend(p))
	}
	if c.wire != nil {
		p.pipes.bend(c.wire)
	}
}

// bent says what is wrong while a peer misbehaves: of one that did so from the
// first, all that is believed is to be in its model, of another one it is to be
// its model.
func (w *world) bent(s *sight, p *peer, c conduct, first bool) error {
	if p.Bent() == 0 && p.pipes.bent() == 0 {
		return fmt.Errorf("nothing was bent yet")
	}
	if c.harmless {
		return w.same(s, p)
	}
	if !first {
		return s.matches(p)
	}
	for key, value := range s.cache[p.name] {
		if want, ok := p.model[key]; !ok || string(want) != value {
			return fmt.Errorf("the cache has %q, which is not to be believed", key)
		}
	}
	return nil
}
