package trust

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// JudgeConfig says whom a Judge judges.
type JudgeConfig struct {
	Book *Book
	Peer string
	Size cluster.Size
	// Rules are what is taken from the peer.
	Rules Rules
}

// Judge decides on the keys of one peer. Errors are *Refusal. Its methods belong
// to one goroutine, but for Observed and Growth.
type Judge struct {
	cfg   JudgeConfig
	id    cluster.ID
	first identity.Number
	last  identity.Number
	view  *view
	// nodes are the peer's; held counts the addresses that no other peer's may
	// have, special all that nodes have. touched are those of them that came or
	// went since Touched.
	nodes   map[string]nodeHold
	held    map[netip.Addr]int
	special map[netip.Addr]int
	touched []netip.Addr
	dropped []error // of the node that was judged last
	use     usage
	// wasSpecial is about the address that was judged last.
	wasSpecial bool
	grown      int // as Grown said last

	mu       sync.Mutex
	observed ranges
	growth   ranges
}

type nodeHold struct{ held, special []netip.Addr }

// ranges are of one peer, by the place of their class.
type ranges [4]spans

// NewJudge returns a Judge to which nothing is known of the peer.
func NewJudge(cfg JudgeConfig) *Judge {
	j := &Judge{cfg: cfg, nodes: map[string]nodeHold{}, held: map[netip.Addr]int{}, special: map[netip.Addr]int{}}
	j.Refresh()
	return j
}

// Begin says under which id the peer says what it says from now on.
func (j *Judge) Begin(id cluster.ID) {
	j.id = id
	j.first, j.last = identity.Block(id, j.cfg.Size)
}

// Rules replaces what is taken from the peer.
func (j *Judge) Rules(r Rules) { j.cfg.Rules = r }

// Refresh makes the Judge decide by what the Book says now.
func (j *Judge) Refresh() { j.view = j.cfg.Book.view(j.cfg.Peer) }

// Outdated reports whether verdicts since the last Refresh may be other ones by what
// the Book says now: it may have changed meanwhile, before it knew of them.
func (j *Judge) Outdated() bool { return j.cfg.Book.outdated(j.cfg.Peer, j.view) }

// Anew is Refresh before all of the peer is judged anew: what it named that is
// another's is found again then, or is not named any more.
func (j *Judge) Anew() {
	// Before the view is taken: what changes after it counts, and is judged again.
	j.view.wary.Store(false)
	j.Refresh()
}

// Forget frees all that the peer's nodes had: nothing of it is in use any more.
func (j *Judge) Forget() {
	for name := range j.nodes {
		j.DropNode(name)
	}
	j.touched, j.use = nil, usage{}
}

// Observed returns what the peer named while nothing was agreed.
func (j *Judge) Observed() []Claim { return j.list(&j.observed) }

// Growth returns what the peer named outside of its claims: it waits for approval.
func (j *Judge) Growth() []Claim { return j.list(&j.growth) }

// Grown returns how many ranges wait for approval, and whether there are more than
// when it was called last.
func (j *Judge) Grown() (ranges int, more bool) {
	for i := range j.growth {
		ranges += len(j.growth[i].prefixes)
	}
	more = ranges > j.grown
	j.grown = ranges
	return ranges, more
}

// Settle forgets growth: it was decided on, or is to be looked at anew.
func (j *Judge) Settle() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.growth, j.grown = ranges{}, 0
}

func (j *Judge) list(r *ranges) (out []Claim) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, class := range Classes() {
		for _, p := range r[i].prefixes {
			out = append(out, Claim{Class: class, Range: p, Origin: Observed})
		}
	}
	return out
}

// note adds what is around p to a list, if it has room.
func (j *Judge) note(to *ranges, class Class, p netip.Prefix) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &to[rank(class)]
	if s.covers(p) {
		return true
	}
	if len(s.prefixes) >= maxObserved {
		return false
	}
	*s = newSpans(append(slices.Clone(s.prefixes), around(p)))
	return true
}

// Identity judges an identity.
func (j *Judge) Identity(i *identity.Identity) error {
	if i.Number < j.first || i.Number > j.last {
		return refusef(Identity, "identity %d is not one of cluster %d, which has %d to %d", i.Number, j.id, j.first, j.last)
	}
	return nil
}

// Special reports whether an identity is for addresses of nodes alone. Verdicts on
// those depend on the nodes: see Touched.
func Special(n identity.Number) bool {
	return n == identity.Host || n == identity.Health || n == identity.RemoteNode || n == identity.Ingress
}

// Address judges an address, and makes host, of which the peer has its own, a
// remote node.
func (j *Judge) Address(a *endpoint.Address) error {
	if a.Identity == identity.Host {
		a.Identity = identity.RemoteNode
	}
	n := a.Identity
	j.wasSpecial = Special(n)
	switch {
	case Special(n):
		if !a.Prefix.IsSingleIP() || j.special[a.Prefix.Addr()] == 0 {
			return refusef(Identity, "%s has identity %d, and is not an address of a node of that cluster", a.Prefix, n)
		}
	case n == identity.Unmanaged || n == identity.Init, n >= j.first && n <= j.last:
		if err := j.pod(a.Prefix); err != nil {
			return err
		}
	default:
		return refusef(Identity, "%s has identity %d, which cluster %d may not give", a.Prefix, n, j.id)
	}
	if !a.HostIP.IsValid() {
		return nil
	}
	return j.machine(a.HostIP, Nodes)
}

// pod judges what pods have, which is no node's.
func (j *Judge) pod(p netip.Prefix) error {
	if p.IsSingleIP() {
		return j.machine(p.Addr(), Pods)
	}
	return j.place(p, Pods)
}

// machine judges an address that may be a node's: those are one peer's each.
func (j *Judge) machine(a netip.Addr, classes ...Class) error {
	if err := j.place(host(a), classes...); err != nil {
		return err
	}
	if j.held[a] == 0 && j.within(Nodes, host(a)) {
		j.view.wary.Store(true)
	}
	if by := j.cfg.Book.holder(a); by != "" && by != j.cfg.Peer {
		j.cfg.Book.wait(j.cfg.Peer, a)
		return refusef(AddressConflict, "%s is a node of cluster %s", a, by)
	}
	return nil
}

// place judges a prefix that may lie in the claims of some classes; of the first,
// if it is not known yet.
func (j *Judge) place(p netip.Prefix, classes ...Class) error {
	v := j.view
	if err := route.ValidatePrefix(p); err != nil {
		return refusef(AddressRange, "%v", err)
	}
	if v.own.overlaps(p) {
		v.wary.Store(true)
		return refusef(AddressConflict, "%s is this cluster's", p)
	}
	if by := v.exclusive.foreign(p, v.peer); by != "" {
		v.wary.Store(true)
		return refusef(AddressConflict, "%s is in a range of cluster %s", p, by)
	}
	if slices.Contains(classes, Nodes) && j.within(Nodes, p) {
		return nil
	}
	// Our reserved ranges may be networks that nodes of both are in.
	if v.reserved.overlaps(p) && classes[0] != Nodes {
		return refusef(AddressConflict, "%s is in a range that this cluster keeps", p)
	}
	for _, class := range classes {
		if j.within(class, p) {
			return nil
		}
	}
	if v.isOpen(classes[0]) {
		if j.note(&j.observed, classes[0], p) {
			v.wary.Store(true) // the Book knows nothing of it before it is agreed
			return nil
		}
		return refusef(AddressRange, "%s: the peer names more than %d ranges of %s", p, maxObserved, classes[0])
	}
	j.note(&j.growth, classes[0], p)
	return refusef(AddressRange, "%s is outside of the peer's ranges for %s", p, classes[0])
}

// within reports whether p lies in a claim of the class.
func (j *Judge) within(class Class, p netip.Prefix) bool {
	i := rank(class)
	// Who writes observed is the goroutine that asks.
	if j.view.allowed[i].covers(p) {
		return true
	}
	observed := j.view.open[i] && j.observed[i].covers(p)
	if observed {
		j.view.wary.Store(true) // the Book knows nothing of it before it is agreed
	}
	return observed
}

// maxParts is how many addresses, and how many pod ranges, a node may have: each is
// kept, and is looked at at every change.
const maxParts = 64

// Node judges a node, and gives it its addresses if it may have them. A node that
// is refused keeps those that it had. It is refused for the addresses that traffic
// goes to; of all else it loses what it may not have, which n has no more, see
// Dropped. External addresses are anybody's: they are not judged, and prove nothing.
func (j *Judge) Node(n *node.Node) error {
	j.dropped = nil
	if most := max(len(n.Addresses), len(n.PodCIDRs)); most > maxParts {
		return refusef(TooLarge, "node %s has %d addresses or pod ranges, %d at most are taken", n.Name, most, maxParts)
	}
	var h nodeHold
	if err := j.reached(n, &h); err != nil {
		return err
	}
	if taken, by := j.cfg.Book.hold(j.cfg.Peer, h.held); by != "" {
		return refusef(AddressConflict, "%s is a node of cluster %s", taken, by)
	}
	j.trim(n, &h)
	old := j.nodes[n.Name]
	j.nodes[n.Name] = h
	for _, a := range h.held {
		j.held[a]++
	}
	j.count(h.special, 1)
	j.count(old.special, -1)
	j.free(old.held)
	return nil
}

// reached judges the addresses that a node is refused for, and adds them to h.
func (j *Judge) reached(n *node.Node, h *nodeHold) error {
	for _, a := range n.Addresses {
		var classes []Class
		switch a.Type {
		case node.InternalIP:
			classes = []Class{Nodes}
		case node.CiliumInternalIP:
			classes = []Class{Mesh, Pods}
		default:
			continue
		}
		if err := j.place(host(a.IP), classes...); err != nil {
			return err
		}
		h.special, h.held = append(h.special, a.IP), append(h.held, a.IP)
	}
	for _, a := range n.HealthIPs {
		if err := j.place(host(a), Pods, Mesh); err != nil {
			return err
		}
		h.special = append(h.special, a)
	}
	return nil
}

// trim takes from a node what it may not have of all else, and adds the rest to h.
func (j *Judge) trim(n *node.Node, h *nodeHold) {
	n.PodCIDRs = keep(j, n.PodCIDRs, func(p netip.Prefix) error { return j.place(p, Pods) })
	n.Addresses = keep(j, n.Addresses, func(a node.Address) error {
		switch a.Type {
		case node.InternalIP, node.CiliumInternalIP, node.ExternalIP:
			return nil
		}
		if err := j.place(host(a.IP), Nodes); err != nil {
			return err
		}
		if _, by := j.cfg.Book.hold(j.cfg.Peer, []netip.Addr{a.IP}); by != "" {
			return refusef(AddressConflict, "%s is a node of cluster %s", a.IP, by)
		}
		h.special, h.held = append(h.special, a.IP), append(h.held, a.IP)
		return nil
	})
	n.IngressIPs = keep(j, n.IngressIPs, func(a netip.Addr) error {
		if err := j.place(host(a), Pods, Mesh); err != nil {
			return err
		}
		h.special = append(h.special, a)
		return nil
	})
}

// keep returns those of all that are not refused, nil for none; the refusals are
// dropped. It does not change all.
func keep[T any](j *Judge, all []T, judge func(T) error) (kept []T) {
	for _, one := range all {
		if err := judge(one); err != nil {
			j.dropped = append(j.dropped, err)
			continue
		}
		kept = append(kept, one)
	}
	return kept
}

// Dropped returns why the node that was judged last, and is not refused, lost some
// of what it named; nothing when it is asked again.
func (j *Judge) Dropped() []error {
	out := j.dropped
	j.dropped = nil
	return out
}

// DropNode says that a node is not in use any more.
func (j *Judge) DropNode(name string) {
	old := j.nodes[name]
	delete(j.nodes, name)
	j.count(old.special, -1)
	j.free(old.held)
}

// count keeps which addresses are nodes'.
func (j *Judge) count(addresses []netip.Addr, by int) {
	for _, a := range addresses {
		was := j.special[a]
		if j.special[a] = was + by; was+by == 0 {
			delete(j.special, a)
		}
		if was == 0 || was+by == 0 {
			j.touched = append(j.touched, a)
		}
	}
}

// free releases those of the addresses that no other node of the peer has.
func (j *Judge) free(held []netip.Addr) {
	var gone []netip.Addr
	for _, a := range held {
		if j.held[a]--; j.held[a] == 0 {
			delete(j.held, a)
			gone = append(gone, a)
		}
	}
	if len(gone) > 0 {
		j.cfg.Book.release(j.cfg.Peer, gone)
	}
}

// WasSpecial reports whether the address that was judged last has an identity that
// is for nodes' addresses alone, see Special.
func (j *Judge) WasSpecial() bool { return j.wasSpecial }

// Touched returns the addresses that became a node's, or are none's any more,
// since it was called last.
func (j *Judge) Touched() []netip.Addr {
	out := j.touched
	j.touched = nil
	return out
}

// Service judges a service with its own list of backends.
func (j *Judge) Service(s *service.Service) error {
	if err := j.cfg.Rules.namespace(s.Namespace); err != nil {
		return err
	}
	if !j.cfg.Rules.Services.matches(s.Labels) {
		return refusef(ImportRule, "the labels of service %s/%s are not those that are imported from this peer", s.Namespace, s.Name.Name)
	}
	if err := j.number(s.ClusterID); err != nil {
		return err
	}
	for i := range s.Backends {
		if err := j.machine(s.Backends[i].IP, External, Pods, Nodes); err != nil {
			return err
		}
	}
	return nil
}

// Slice judges an endpoint slice.
func (j *Judge) Slice(s *service.Slice) error {
	if err := j.cfg.Rules.namespace(s.Namespace); err != nil {
		return err
	}
	if err := j.number(s.ClusterID); err != nil {
		return err
	}
	for i := range s.Endpoints {
		for _, a := range s.Endpoints[i].Addresses {
			if err := j.machine(a, External, Pods, Nodes); err != nil {
				return err
			}
		}
	}
	return nil
}

// number judges the number of a cluster in a value; old publishers leave it out.
func (j *Judge) number(id cluster.ID) error {
	if id != 0 && id != j.id {
		return refusef(WrongCluster, "cluster id %d, not %d", id, j.id)
	}
	return nil
}

// Admit judges whether a key of size bytes may be in use besides all others; had
// is what it counted before, less than 0 for a new one.
func (j *Judge) Admit(kind wire.Kind, size, had int) error {
	return j.use.admit(&j.cfg.Rules.Quotas, kind, size, had)
}

// Count says that a key is in use from now on, Discount that it is not.
func (j *Judge) Count(kind wire.Kind, size, had int) { j.use.count(kind, size, had) }

// Discount says that a key is not in use any more.
func (j *Judge) Discount(kind wire.Kind, size int) { j.use.discount(kind, size) }

// Room reports, once, that there is room again for what quotas kept out.
func (j *Judge) Room() bool { return j.use.room(&j.cfg.Rules.Quotas) }
