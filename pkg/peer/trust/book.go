package trust

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/causeway-mesh/causeway/pkg/node"
)

// Book knows which addresses are ours, and who claims which others. All methods
// are safe for concurrent use; none blocks on more than a lock.
type Book struct {
	reserved spans

	mu sync.RWMutex
	// ours counts how many of our nodes have a prefix; ourNodes says which.
	ours     map[netip.Prefix]int
	ourNodes map[string][]netip.Prefix
	own      spans
	mesh     []netip.Prefix
	sides    map[string]*side
	// exclusive are the ranges that are one peer's alone.
	exclusive domains
	// holders says which peer's node has an address, waiting who else named it.
	holders map[netip.Addr]string
	waiting map[netip.Addr]map[string]struct{}
}

// maxWaiting is how many addresses are remembered that a peer named and another
// one's node has. What is named beyond it comes in when the peer is read again.
const maxWaiting = 65_536

// side is one peer.
type side struct {
	claims []Claim
	open   [4]bool
	view   *view
	// wary says that the peer named what is ours or another's, or hosts that are none
	// of its nodes: any change may concern it.
	wary *atomic.Bool
	// stale is told that a verdict may be another one from now on.
	stale func()
}

// view is what a Judge decides by. It is not changed once made.
type view struct {
	own, reserved spans
	exclusive     domains
	peer          string
	allowed       [4]spans // by the place of the class
	lost          map[Claim]string
	wary          *atomic.Bool // its side's
	// open are the classes of which nothing was agreed yet: what the peer names is
	// what it claims.
	open [4]bool
}

func (v *view) isOpen(c Class) bool { return v.open[rank(c)] }

// NewBook returns a Book. mesh are our own ranges for nodes, reserved those
// where no other cluster may have pods.
func NewBook(mesh, reserved []netip.Prefix) *Book {
	return &Book{
		mesh: mesh, reserved: newSpans(reserved), own: newSpans(mesh),
		ours: map[netip.Prefix]int{}, ourNodes: map[string][]netip.Prefix{},
		sides: map[string]*side{}, holders: map[netip.Addr]string{}, waiting: map[netip.Addr]map[string]struct{}{},
	}
}

// Own takes changes of our own nodes; nil is one that is gone. What is ours is
// ours, whoever claimed it before.
func (b *Book) Own(nodes map[string]*node.Node) {
	if len(nodes) == 0 {
		return
	}
	b.mu.Lock()
	changed := map[netip.Prefix]struct{}{}
	for name, n := range nodes {
		now := prefixesOf(n)
		for _, p := range now {
			if b.ours[p]++; b.ours[p] == 1 {
				changed[p] = struct{}{}
			}
		}
		for _, p := range b.ourNodes[name] {
			if b.ours[p]--; b.ours[p] == 0 {
				delete(b.ours, p)
				changed[p] = struct{}{}
			}
		}
		if b.ourNodes[name] = now; n == nil {
			delete(b.ourNodes, name)
		}
	}
	if len(changed) == 0 {
		b.mu.Unlock()
		return
	}
	own := slices.Clone(b.mesh)
	for p := range b.ours {
		own = append(own, p)
	}
	b.own = newSpans(own)
	tell := b.compile(changed)
	b.mu.Unlock()
	call(tell)
}

// prefixesOf returns all that is a node's own, each once. Its external address is
// not: machines behind one gateway share that, those of other clusters too.
func prefixesOf(n *node.Node) []netip.Prefix {
	if n == nil {
		return nil
	}
	var out []netip.Prefix
	add := func(p netip.Prefix) {
		if p = p.Masked(); p.IsValid() && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, p := range n.PodCIDRs {
		add(p)
	}
	for _, a := range n.Addresses {
		if a.Type != node.ExternalIP {
			add(host(a.IP))
		}
	}
	for _, a := range slices.Concat(n.HealthIPs, n.IngressIPs) {
		add(host(a))
	}
	return out
}

// Claims makes claims all that a peer may use; open are the classes of which
// nothing is agreed yet. stale is called, with no lock held, when verdicts on the peer may be other
// ones from now on, but not for this call itself.
func (b *Book) Claims(peer string, claims []Claim, open []Class, stale func()) {
	claims = slices.SortedFunc(slices.Values(claims), CompareClaims)
	b.mu.Lock()
	s := b.sides[peer]
	if s == nil {
		s = &side{wary: new(atomic.Bool)}
		b.sides[peer] = s
	}
	s.claims, s.open, s.stale = claims, [4]bool{}, func() {}
	for _, c := range open {
		s.open[rank(c)] = true
	}
	tell := b.compile(nil)
	s.stale = stale
	b.mu.Unlock()
	call(tell)
}

// Remove forgets a peer: what it had is free.
func (b *Book) Remove(peer string) {
	b.mu.Lock()
	delete(b.sides, peer)
	for a, holder := range b.holders {
		if holder == peer {
			delete(b.holders, a)
		}
	}
	tell := b.compile(nil)
	for a, others := range b.waiting {
		if delete(others, peer); len(others) == 0 {
			delete(b.waiting, a)
		} else if b.holders[a] == "" {
			tell = append(tell, b.awaited(a)...)
		}
	}
	b.mu.Unlock()
	call(tell)
}

// Lost returns those of a peer's claims that another one's keep out, and whose.
func (b *Book) Lost(peer string) map[Claim]string { return b.view(peer).lost }

func (b *Book) view(peer string) *view {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if s := b.sides[peer]; s != nil {
		return s.view
	}
	return &view{own: b.own, reserved: b.reserved, wary: new(atomic.Bool)}
}

// outdated reports whether what changed since was was taken concerns the peer. Of
// what the peer named since then nobody knew when it changed.
func (b *Book) outdated(peer string, was *view) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	s := b.sides[peer]
	if s == nil || s.view == was {
		return false
	}
	changed := map[netip.Prefix]struct{}{}
	for _, p := range was.own.prefixes {
		changed[p] = struct{}{}
	}
	for _, p := range s.view.own.prefixes {
		if _, both := changed[p]; both {
			delete(changed, p)
		} else {
			changed[p] = struct{}{}
		}
	}
	changed = s.view.exclusive.changes(was.exclusive, changed)
	return was.differs(s.view) || b.touches(changed, s.view)
}

// holder returns the peer whose node has an address, "" for none.
func (b *Book) holder(a netip.Addr) string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.holders[a]
}

// hold gives a peer's node its addresses, all or none: then it returns the first
// that another peer's has.
func (b *Book) hold(peer string, addresses []netip.Addr) (taken netip.Addr, by string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range addresses {
		if by := b.holders[a]; by != "" && by != peer {
			b.await(peer, a)
			return a, by
		}
	}
	for _, a := range addresses {
		b.holders[a] = peer
	}
	return netip.Addr{}, ""
}

// wait remembers that a peer named an address that another one's node has.
func (b *Book) wait(peer string, a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.await(peer, a)
}

func (b *Book) await(peer string, a netip.Addr) {
	if b.waiting[a] == nil {
		if len(b.waiting) >= maxWaiting {
			return
		}
		b.waiting[a] = map[string]struct{}{}
	}
	b.waiting[a][peer] = struct{}{}
}

// release frees addresses that no node of the peer has any more.
func (b *Book) release(peer string, addresses []netip.Addr) {
	b.mu.Lock()
	var tell []func()
	for _, a := range addresses {
		if b.holders[a] == peer {
			delete(b.holders, a)
			tell = append(tell, b.awaited(a)...)
		}
	}
	b.mu.Unlock()
	call(tell)
}

// awaited returns who is to be told that an address is free. The caller holds mu.
func (b *Book) awaited(a netip.Addr) (tell []func()) {
	for peer := range b.waiting[a] {
		if s := b.sides[peer]; s != nil {
			tell = append(tell, s.stale)
		}
	}
	delete(b.waiting, a)
	return tell
}

// compile makes the views anew, and returns whom to tell: peers that may use other
// ranges than before, and those that may use some of what changed of ours or of
// another peer's. The caller holds mu.
func (b *Book) compile(changed map[netip.Prefix]struct{}) (tell []func()) {
	exclusive, lost := b.settle()
	changed = exclusive.changes(b.exclusive, changed)
	b.exclusive = exclusive
	for name, s := range b.sides {
		now := &view{own: b.own, reserved: b.reserved, exclusive: exclusive, peer: name, open: s.open, lost: lost[name], wary: s.wary}
		for i, class := range Classes() {
			var ranges []netip.Prefix
			for _, c := range s.claims {
				if _, not := lost[name][c]; c.Class == class && !not {
					ranges = append(ranges, c.Range)
				}
			}
			now.allowed[i] = newSpans(ranges)
		}
		if s.view != nil && (s.view.differs(now) || b.touches(changed, now)) {
			tell = append(tell, s.stale)
		}
		s.view = now
	}
	return tell
}

// settle decides between claims of peers that overlap: the first has its range. A guess
// keeps nobody out, but what a peer said of itself later takes nothing from who was there.
func (b *Book) settle() (domains, map[string]map[Claim]string) {
	var all, used []domain
	for peer, s := range b.sides {
		for _, c := range s.claims {
			switch {
			case c.exclusive():
				all = append(all, domain{Claim: c, peer: peer})
			case c.Origin == Approved || c.Origin == Observed:
				used = append(used, domain{Claim: c, peer: peer})
			}
		}
	}
	lost := map[string]map[Claim]string{}
	lose := func(d domain, to string) {
		if lost[d.peer] == nil {
			lost[d.peer] = map[Claim]string{}
		}
		lost[d.peer][d.Claim] = to
	}
	isLost := func(d domain) bool { _, is := lost[d.peer][d.Claim]; return is }
	for d, by := range late(all, used) {
		lose(d, by)
	}
	all = sortDomains(slices.DeleteFunc(all, isLost))
	contested := contests(all)
	slices.SortFunc(contested, func(a, b domain) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.peer, b.peer), CompareClaims(a.Claim, b.Claim))
	})
	var given []domain
	for _, c := range contested {
		i := slices.IndexFunc(given, func(g domain) bool { return g.peer != c.peer && g.Range.Overlaps(c.Range) })
		if i < 0 {
			given = append(given, c)
			continue
		}
		lose(c, given[i].peer)
	}
	return newDomains(slices.DeleteFunc(all, isLost)), lost
}

func (v *view) differs(w *view) bool {
	if v.open != w.open {
		return true
	}
	for i := range v.allowed {
		if !v.allowed[i].equal(&w.allowed[i]) {
			return true
		}
	}
	return false
}

// touches reports whether something of what changed concerns a peer. That a node
// comes in a network that both are in concerns it only if its own has the address;
// a range there may be around some of them.
func (b *Book) touches(changed map[netip.Prefix]struct{}, v *view) bool {
	if len(changed) > 0 && (v.wary.Load() || v.isOpen(Pods) || v.isOpen(Nodes)) {
		return true
	}
	for p := range changed {
		if b.holders[p.Addr()] == v.peer {
			return true
		}
		for i, class := range Classes() {
			if (class != Nodes || !p.IsSingleIP()) && v.allowed[i].overlaps(p) {
				return true
			}
		}
	}
	return false
}

func call(tell []func()) {
	for _, fn := range tell {
		fn()
	}
}
