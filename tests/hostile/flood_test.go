package hostile

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
)

// The sizes of floods, and with -full.
const (
	fewKeys, manyKeys = 30_000, 1_000_000
	shortly, long     = 3 * time.Second, time.Minute
	flips             = 1000 // a second
	admitted          = 1000 // addresses, by the quota
	// allowance is by how much the API server may grow for all floods together.
	allowance = 512 << 20
)

// flooded answers the addresses of a peer with n that are all its own, page by page.
func flooded(p *peer, n int) rogue.Tamper {
	template := p.addressValue(netip.MustParseAddr("11.255.255.255"), nil)
	return rogue.Flood(p.layout().Prefix(wire.Addresses), fmt.Sprintf("fd11:%x:0:1:1000", p.id), n, func(ip string) []byte {
		return bytes.ReplaceAll(template, []byte("11.255.255.255"), []byte(ip))
	})
}

// TestFloods has peers say more than anybody may, or faster. Each is held by its
// quotas, an honest one is followed, and the API server's memory stays bounded.
func TestFloods(t *testing.T) {
	keys, span := fewKeys, shortly
	if *full {
		keys, span = manyKeys, long
	}
	w := newWorld(t)
	w.start()
	quota := fmt.Sprintf("import: {quotas: {addresses: %d, bytes: %d}}\n", admitted, 4<<20)
	honest, flips1 := &peer{of: "honest"}, &peer{of: "one key that flips"}
	flipsMany, flipsNodes := &peer{of: "many keys that flip"}, &peer{of: "a node that comes and goes"}
	many := &peer{of: "many keys", file: fmt.Sprintf("import: {quotas: {addresses: %d}}\n", admitted)}
	endless := &peer{of: "a list without an end", file: quota}
	late := &peer{of: "a list without an end, later", file: quota}
	large := &peer{of: "large values", file: quota}
	again := &peer{of: "a store that begins again"}
	back := &peer{of: "a store from before"}
	all := []*peer{flips1, flipsMany, flipsNodes, many, endless, late, large, again, back}
	w.serve(append([]*peer{honest}, all...)...)
	for _, p := range w.peers {
		p.Say(p.about()...)
		p.says(good(p.base())...)
	}
	many.Bend(flooded(many, keys))
	endless.Bend(flooded(endless, 1<<30))
	for n := range 100 {
		name := fmt.Sprint("large-", n)
		value := bytes.ReplaceAll(large.serviceValue(name), []byte(`"app":"web"`), []byte(`"app":"`+strings.Repeat("w", 100<<10)+`"`))
		large.Say(rogue.Pair{Key: large.serviceKey(name), Value: value})
	}
	w.connect(honest)
	w.settled(honest)
	before := w.memory()
	w.connect(all...)
	steady := []*peer{flips1, flipsMany, flipsNodes, late, again, back}
	t.Run("before", func(t *testing.T) { report(t, steady, w.settle(steady, w.right)) })

	late.Wipe() // it is read anew
	late.Bend(flooded(late, 1<<30))
	late.Say(late.about()...)
	late.says(good(late.base())...)
	again.Wipe()
	again.Say(again.about()...)
	again.says(good(again.base())...)
	back.Wipe() // it has less, and its last sign of life is older
	back.beats = -1
	back.Say(back.about()...)
	slice := back.layout().SliceKey("shop", "web-1")
	for _, b := range back.base() {
		if b.Key != slice {
			back.says(saying{key: b.Key, value: b.Value})
		}
	}
	delete(back.model, slice)
	flip(span, flips1, flipsMany, flipsNodes)
	honest.grow()
	t.Run("meanwhile", func(t *testing.T) { report(t, all, w.settle(all, w.held(many, endless, late, large))) })
	w.settled(honest)
	if grown := w.memory() - before; grown > allowance {
		t.Errorf("the API server has %d MiB more than before the floods", grown>>20)
	} else {
		t.Logf("the API server has %d MiB more than before the floods", grown>>20)
	}

	// Another store: of a list that it is in the middle of, a reader can not know
	// that the keys before were made up.
	for _, p := range []*peer{many, endless, late} {
		p.Replace()
		p.Bend(rogue.Tamper{})
		p.Say(p.about()...)
		p.says(good(p.base())...)
		p.grow()
	}
	t.Run("after", func(t *testing.T) {
		ended := []*peer{many, endless, late}
		report(t, ended, w.settle(ended, w.same))
	})
}

// flip has keys change for some time, and leaves them as their models say.
func flip(span time.Duration, single, many, nodes *peer) {
	end := time.Now().Add(span)
	key := single.addressKey(single.pod(10))
	n2 := nodes.layout().NodeKey("n2")
	for n := 0; time.Now().Before(end); n++ {
		single.Say(rogue.Pair{Key: key, Value: bytes.ReplaceAll(single.addressValue(single.pod(10), nil), []byte(`"web"`), fmt.Appendf(nil, `"web-%d"`, n))})
		ip := many.v4(11, 9, n%200)
		many.Say(rogue.Pair{Key: many.addressKey(ip), Value: many.addressValue(ip, nil)})
		many.Say(rogue.Pair{Key: many.addressKey(ip)})
		nodes.Say(rogue.Pair{Key: n2, Value: nodes.nodeValue(nodes.second)})
		nodes.Say(rogue.Pair{Key: n2})
		time.Sleep(time.Second / flips) // the rate is what the case is about
	}
	single.Say(rogue.Pair{Key: key, Value: single.addressValue(single.pod(10), nil)})
}

// held says what is wrong with peers that say too much, and right of all others.
func (w *world) held(many, endless, late, large *peer) func(*sight, *peer) error {
	return func(s *sight, p *peer) error {
		got, refused := s.cache[p.name], s.refused[p.name][string(trust.Quota)]
		addresses, size := 0, 0
		for key, value := range got {
			size += len(value)
			if strings.HasPrefix(key, p.layout().Prefix(wire.Addresses)) {
				addresses++
			}
		}
		switch p {
		case many:
			if s.sessions[p.name].State != "synced" || addresses != admitted || refused == 0 {
				return fmt.Errorf("session %v, %d addresses are in use, %d refused", s.sessions[p.name], addresses, refused)
			}
		case large:
			if s.sessions[p.name].State != "synced" || size > 4<<20 || size < 3<<20 || refused == 0 {
				return fmt.Errorf("session %v, %d bytes are in use, %d refused", s.sessions[p.name], size, refused)
			}
		case endless:
			if !strings.Contains(s.sessions[p.name].Reason, "more keys than are remembered") || addresses > admitted {
				return fmt.Errorf("session %v, %d addresses are in use", s.sessions[p.name], addresses)
			}
		case late: // what it said before stays
			if !strings.Contains(s.sessions[p.name].Reason, "more keys than are remembered") || addresses > admitted {
				return fmt.Errorf("session %v, %d addresses are in use", s.sessions[p.name], addresses)
			}
			for key := range p.model {
				if got[key] != string(p.model[key]) {
					return fmt.Errorf("the cache lacks %q", key)
				}
			}
		default:
			return w.right(s, p)
		}
		return nil
	}
}

// memory is the API server's, in bytes, without what it maps from files.
func (w *world) memory() int {
	w.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.east.APIServer().PID()))
	w.check(err)
	found := regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`).FindSubmatch(text)
	if found == nil {
		w.t.Fatal("the kernel does not say how much memory a process has")
	}
	n, err := strconv.Atoi(string(found[1]))
	w.check(err)
	return n << 10
}
