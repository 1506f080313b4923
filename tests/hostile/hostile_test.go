package hostile

import (
	"testing"

	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
)

// TestSayings has peers say what is not theirs to say, in their first listing and
// in changes of it.
func TestSayings(t *testing.T) {
	w := newWorld(t)
	w.start()
	honest := &peer{of: "honest"}
	var peers []*peer
	cases := semantics()
	for _, c := range cases {
		peers = append(peers, &peer{of: c.name, file: c.file})
	}
	w.serve(append([]*peer{honest}, peers...)...)
	says := func(i int) []saying { return cases[i].says(peers[i]) }
	for _, p := range w.peers {
		p.Say(p.about()...)
		p.says(good(p.base())...)
	}
	for i, p := range peers {
		p.says(says(i)...)
	}
	// The honest one is first: what two declare is whose who declared it first.
	w.connect(honest)
	w.settled(honest)
	w.connect(peers...)
	t.Run("listed", func(t *testing.T) { report(t, peers, w.settle(peers, w.right)) })

	for i, p := range peers {
		for _, s := range says(i) {
			p.says(saying{key: s.key})
		}
	}
	honest.grow()
	t.Run("taken_back", func(t *testing.T) { report(t, peers, w.settle(peers, w.right)) })

	for i, p := range peers {
		p.says(says(i)...)
	}
	honest.grow()
	t.Run("changed", func(t *testing.T) { report(t, peers, w.settle(peers, w.right)) })

	// Keys that were good are spoilt: the last good values stay.
	for i, p := range peers {
		var spoilt []rogue.Pair
		other := peers[(i+1)%len(peers)].base()
		for n, b := range p.base() {
			b.Value = other[n].Value
			if i%2 == 0 {
				b.Value = []byte("\xff{garbage")
			}
			spoilt = append(spoilt, b)
		}
		p.Say(spoilt...)
	}
	honest.grow()
	t.Run("spoilt", func(t *testing.T) { report(t, peers, w.settle(peers, w.same)) })
	w.settled(honest)
}
