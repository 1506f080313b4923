package peer

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// declare adds to the peer file of r what it may claim, and what is imported.
func (l *local) declare(r *remote, text string) {
	l.t.Helper()
	l.write(r.name, fmt.Appendf(nil, "endpoints: [https://%s]\ntrusted-ca-file: %s.ca.crt\ncert-file: %s.crt\nkey-file: %s.key\n%s",
		r.address, r.name, r.name, r.name, text))
}

// refusals are how many keys of a peer were refused, by reason.
func (l *local) refusals(peer string) map[string]int {
	for _, s := range l.Status() {
		if s.Name == peer {
			return s.Refused
		}
	}
	return nil
}

func (l *local) awaitRefusal(peer string, why trust.Reason) {
	l.t.Helper()
	eventually(l.t, func() error {
		if got := l.refusals(peer); got[string(why)] == 0 {
			return fmt.Errorf("nothing of %s is refused for %s: %v", peer, why, got)
		}
		return nil
	})
}

// What a peer without declared claims names first is agreed, also over a restart
// that it is away at; what is outside of it waits for a person, and comes in then.
func TestGrowthWaits(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	west.claims("10.9.0.1", "first")
	l.connect(west)
	l.awaitOwner("10.9.0.1", "west/first")
	west.claims("10.9.255.7", "near")
	l.awaitOwner("10.9.255.7", "west/near")
	west.claims("10.30.0.1", "far")
	l.awaitRefusal("west", trust.AddressRange)
	if got := l.owner("10.30.0.1"); got != "" {
		t.Errorf("what is not agreed is %q's", got)
	}
	eventually(t, func() error {
		_, found, err := l.etcd.Get(t.Context(), claimsPrefix+"west")
		if err != nil || !found {
			return fmt.Errorf("no claims are kept: %w", err)
		}
		return nil
	})

	l.stop()
	l.start()
	l.awaitRefusal("west", trust.AddressRange)
	if got := l.owner("10.30.0.1"); got != "" {
		t.Errorf("after a restart what is not agreed is %q's", got)
	}
	var waiting []trust.Claim
	eventually(t, func() error {
		if waiting = l.Beliefs()["west"].Waiting; len(waiting) != 1 {
			return fmt.Errorf("%v waits", waiting)
		}
		return nil
	})
	if _, err := l.Approve("west", []netip.Prefix{netip.MustParsePrefix("10.31.0.0/16")}); !errors.Is(err, ErrNotWaiting) || !strings.Contains(err.Error(), "what waits is "+waiting[0].Range.String()) {
		t.Errorf("a range that does not wait: %v", err)
	}
	if _, err := l.Approve("north", nil); !errors.Is(err, ErrNoPeer) {
		t.Errorf("a cluster that is no peer: %v", err)
	}
	// It is judged anew now and then, and does not wait in between.
	eventually(t, func() error {
		_, err := l.Approve("west", nil)
		return err
	})
	l.awaitOwner("10.30.0.1", "west/far")
	b := l.Beliefs()["west"]
	if len(b.Claims) != 3 || !slices.ContainsFunc(b.Claims, func(c trust.Claim) bool { return c.Origin == trust.Approved && c.Range == waiting[0].Range }) {
		t.Errorf("claims %v", b.Claims)
	}
	if len(b.Offences) == 0 || b.Offences[0].Reason != trust.AddressRange || !strings.Contains(b.Offences[0].Key, "10.30.0.1") {
		t.Errorf("offences %v", b.Offences)
	}
}

// Of two peers that declare one range the first has it, after a restart at which
// the other answers first too; when it leaves, the other has it.
func TestDeclaredClaims(t *testing.T) {
	t.Parallel()
	l, west, south := newLocal(t), newRemote(t, "west", 2), newRemote(t, "south", 3)
	nodes := "claims: {podCIDRs: [10.9.0.0/16], nodeCIDRs: [10.77.0.0/16]}\n"
	west.claims("10.9.0.1", "w")
	south.claims("10.9.0.2", "s")
	l.connect(west)
	l.declare(west, nodes)
	l.awaitOwner("10.9.0.1", "west/w")
	l.connect(south)
	l.declare(south, nodes)
	l.awaitRefusal("south", trust.AddressConflict)
	eventually(t, func() error {
		if lost := slices.Collect(maps.Values(l.Beliefs()["south"].Lost)); !slices.Equal(lost, []string{"west"}) {
			return fmt.Errorf("south lost to %v", lost)
		}
		return nil
	})
	if _, err := l.Approve("south", nil); !errors.Is(err, ErrDeclared) {
		t.Errorf("approve beside a file: %v", err)
	}
	eventually(t, func() error {
		_, w, err1 := l.etcd.Get(t.Context(), claimsPrefix+"west")
		_, s, err2 := l.etcd.Get(t.Context(), claimsPrefix+"south")
		if !w || !s {
			return fmt.Errorf("claims are not kept: %w", errors.Join(err1, err2))
		}
		return nil
	})

	l.stop()
	west.stop()
	l.start()
	l.awaitRefusal("south", trust.AddressConflict)
	if got := l.owner("10.9.0.2"); got != "" {
		t.Errorf("after a restart south's address is %q's", got)
	}
	l.remove("west")
	l.awaitOwner("10.9.0.2", "south/s")

	// Rules and claims of a file are in effect without a restart.
	l.declare(south, "claims: {podCIDRs: [10.8.0.0/16], nodeCIDRs: [10.77.0.0/16]}\n")
	l.awaitOwner("10.9.0.2", "")
	l.declare(south, nodes+"import: {quotas: {nodes: 1}}\n")
	l.awaitOwner("10.9.0.2", "south/s")
	south.node("n3") // of those in use none goes
	l.awaitRefusal("south", trust.Quota)
	if got := l.nodes("south"); !slices.Equal(got, []string{"n1", "n2"}) {
		t.Errorf("nodes of south: %v", got)
	}
}

// What becomes our own is taken from a peer at once.
func TestOwnWins(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	west.claims("10.9.0.1", "w")
	l.connect(west)
	l.awaitOwner("10.9.0.1", "west/w")
	ours := &node.Node{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}}
	l.cfg.Book.Own(map[string]*node.Node{"e1": ours})
	l.awaitOwner("10.9.0.1", "")
	l.cfg.Book.Own(map[string]*node.Node{"e1": nil})
	l.awaitOwner("10.9.0.1", "west/w")
}

// Nodes of ours and of a peer may have one range that nobody uses: each keeps its
// own, and the peer's node has it when ours does not any more.
func TestSharedPodRanges(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	shared := netip.MustParsePrefix("10.244.0.0/24")
	l.cfg.Book.Own(map[string]*node.Node{"e1": {PodCIDRs: []netip.Prefix{shared}}})
	value, err := wire.EncodeNode(&node.Node{
		Cluster: "west", ClusterID: 2, Name: "n3", Source: "k8s", PodCIDRs: []netip.Prefix{shared},
		Addresses: []node.Address{{Type: node.InternalIP, IP: west.host()}},
	})
	west.put(west.layout().NodeKey("n3"), value, err)
	l.connect(west)
	l.awaitNodes("west", "n1", "n2", "n3")
	l.awaitRefusal("west", trust.AddressConflict)
	awaitRanges := func(want ...netip.Prefix) {
		t.Helper()
		eventually(t, func() error {
			var got []netip.Prefix
			l.engine.Read(func(s *merge.State) {
				if n := s.Directory().Nodes[node.Key{Cluster: "west", Name: "n3"}]; n != nil {
					got = n.PodCIDRs
				}
			})
			if !slices.Equal(got, want) {
				return fmt.Errorf("the node has %v, want %v", got, want)
			}
			return nil
		})
	}
	awaitRanges()
	l.cfg.Book.Own(map[string]*node.Node{"e1": nil})
	awaitRanges(shared)
	west.stop() // what is lost is lost also of a peer that is away
	l.cfg.Book.Own(map[string]*node.Node{"e1": {PodCIDRs: []netip.Prefix{shared}}})
	awaitRanges()
	l.awaitNodes("west", "n1", "n2", "n3")
}

// Who found the session of a peer just before the peer was removed agrees to nothing.
func TestNothingIsAgreedWithAPeerThatIsGone(t *testing.T) {
	t.Parallel()
	m := New(Config{Cluster: east(), Etcd: unreachable(t), Engine: engine{merge.NewEngine("east", noSink{})}, Logger: quiet()})
	s := newSession("west", m, File{Claims: []trust.Claim{{Class: trust.Pods, Range: netip.MustParsePrefix("10.2.0.0/16"), Origin: trust.Declared}}})
	if n := len(m.ledger.get("west").Claims); n != 1 {
		t.Fatalf("%d claims are agreed", n)
	}
	s.part()
	m.ledger.forget("west")
	s.agree()
	s.pin()
	if _, err := s.approve(nil); !errors.Is(err, ErrNoPeer) {
		t.Errorf("approved: %v", err)
	}
	if got := m.ledger.peers(); len(got) != 0 {
		t.Errorf("%v are remembered", got)
	}
}

// What is kept of refused addresses until their node comes is bounded in bytes, and
// what is given up of it makes room.
func TestRefusedAddressesAreBounded(t *testing.T) {
	t.Parallel()
	l := &local{t: t, engine: engine{merge.NewEngine("east", noSink{})}}
	m := New(Config{Cluster: east(), Etcd: unreachable(t), Engine: tapped{l}, Logger: quiet()})
	s := newSession("west", m, File{Claims: []trust.Claim{{Class: trust.Nodes, Range: netip.MustParsePrefix("10.77.0.0/16"), Origin: trust.Declared}}})
	s.begin(2)
	layout := wire.Layout{Cluster: "west"}
	const size, room = 4000, maxSpecialTotal / 4000
	say := func(deleted bool) {
		var changes []kvstore.Change
		for n := range room + 100 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(n >> 8), byte(n)}), 32)
			value, err := wire.EncodeAddress(&endpoint.Address{Cluster: "west", Prefix: p, Identity: identity.RemoteNode})
			if err != nil {
				t.Fatal(err)
			}
			value = append(value, strings.Repeat(" ", size-len(value))...)
			changes = append(changes, kvstore.Change{Key: layout.AddressKey(p), Value: value, Deleted: deleted})
		}
		s.deliver(layout, changes)
	}
	say(false)
	if n := len(s.special); n != room || s.specialBytes != n*size {
		t.Errorf("%d addresses of %d bytes are kept", n, s.specialBytes)
	}
	say(true)
	if len(s.special) != 0 || s.specialBytes != 0 {
		t.Errorf("%d addresses of %d bytes are kept of nothing", len(s.special), s.specialBytes)
	}
}

// said is one thing that a peer may say, and whether it is to be believed.
type said struct {
	change kvstore.Change
	good   bool
}

// sayings are good and bad keys of every kind, of a peer west with id 2 that has
// pods in 10.2.0.0/16 and nodes in 10.77.0.0/16.
func sayings(t *testing.T) (out []said) {
	t.Helper()
	l := wire.Layout{Cluster: "west"}
	add := func(good bool, key string, value []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, said{kvstore.Change{Key: key, Value: value}, good})
	}
	for i, ip := range []string{"10.77.2.1", "10.77.2.2", "10.78.0.1", "10.77.1.1"} {
		n := &node.Node{
			Cluster: "west", ClusterID: 2, Name: fmt.Sprint("n", i), Source: "k8s",
			Addresses: []node.Address{{Type: node.InternalIP, IP: netip.MustParseAddr(ip)}}, HealthIPs: []netip.Addr{netip.MustParseAddr(fmt.Sprint("10.2.9.", i))},
		}
		if i == 1 { // it loses the second, which is ours
			n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.2.1.0/24"), netip.MustParsePrefix("10.1.0.0/24")}
		}
		value, err := wire.EncodeNode(n)
		add(i < 2, l.NodeKey(n.Name), value, err)
	}
	number := one(2)
	for n, name := range map[identity.Number]string{number: "west", number + 1: "west", one(3): "west", number + 2: "south"} {
		value, err := wire.EncodeIdentity(&identity.Identity{Number: n, Labels: identity.Labels("k8s:io.cilium.k8s.policy.cluster=" + name + ";")})
		add(name == "west" && n != one(3), l.IdentityKey(n), value, err)
	}
	for _, a := range []struct {
		ip, host string
		id       identity.Number
		good     bool
	}{
		{"10.2.0.1", "10.77.2.1", number, true},
		{"10.2.0.2", "", identity.Init, true},
		{"10.77.2.1", "", identity.RemoteNode, true},
		{"10.77.2.2", "", identity.Host, true},
		{"10.2.9.0", "", identity.Health, true},
		{"10.2.9.2", "", identity.Health, false}, // of a node that is refused
		{"10.2.0.3", "", identity.Health, false},
		{"10.2.0.4", "", identity.World, false},
		{"10.2.0.5", "", one(1), false},
		{"10.3.0.1", "", number, false},
		{"10.1.0.1", "", number, false},
		{"10.2.0.6", "10.77.1.1", number, false},
	} {
		p := netip.PrefixFrom(netip.MustParseAddr(a.ip), 32)
		v := &endpoint.Address{Cluster: "west", Prefix: p, Identity: a.id}
		if a.host != "" {
			v.HostIP = netip.MustParseAddr(a.host)
		}
		value, err := wire.EncodeAddress(v)
		add(a.good, l.AddressKey(p), value, err)
	}
	for i, ip := range []string{"10.2.0.1", "10.77.2.1", "10.1.0.1", "192.0.2.1"} {
		s := &service.Service{
			Name: service.Name{Namespace: "shop", Name: fmt.Sprint("s", i)}, Cluster: "west", ClusterID: 2, Global: true, Shared: true,
			Backends: []service.Backend{{IP: netip.MustParseAddr(ip), Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80}}}},
		}
		value, err := wire.EncodeService(s)
		add(i < 2, l.ServiceKey(s.Name), value, err)
		sl := &service.Slice{
			Cluster: "west", ClusterID: 2, Namespace: "shop", Name: fmt.Sprint("s", i), Service: fmt.Sprint("s", i),
			Labels: map[string]string{service.LabelServiceName: fmt.Sprint("s", i)}, Endpoints: []service.Endpoint{{Addresses: []netip.Addr{netip.MustParseAddr(ip)}}},
		}
		value, err = wire.EncodeSlice(sl)
		add(i < 2, l.SliceKey("shop", sl.Name), value, err)
	}
	return out
}

// In whatever order, in whatever pieces, and however often a peer says what it
// says: what is in use in the end is what is to be believed of it, and the merged
// state that of a peer who said nothing else. What it takes back is gone.
func TestOrderOfSayings(t *testing.T) {
	t.Parallel()
	all := sayings(t)
	var good []said
	for _, s := range all {
		if s.good {
			good = append(good, s)
		}
	}
	want := sayTo(t, rand.New(rand.NewPCG(0, 0)), good)
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 5))
		got := sayTo(t, r, all)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}

// sayTo lets a new session hear sayings in a random order, some of them twice and
// some taken back meanwhile, and returns what is known then, and who has addresses.
func sayTo(t *testing.T, r *rand.Rand, all []said) map[string]string {
	t.Helper()
	l := &local{t: t, engine: engine{merge.NewEngine("east", noSink{})}}
	book := trust.NewBook(nil, nil)
	book.Own(map[string]*node.Node{"e1": {
		Addresses: []node.Address{{Type: node.InternalIP, IP: netip.MustParseAddr("10.77.1.1")}},
		PodCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")},
	}})
	// Nothing is written: neither its cache nor its claims run.
	m := New(Config{Cluster: east(), Etcd: unreachable(t), Engine: tapped{l}, Book: book, Logger: quiet()})
	s := newSession("west", m, File{Claims: []trust.Claim{
		{Class: trust.Pods, Range: netip.MustParsePrefix("10.2.0.0/16"), Origin: trust.Declared},
		{Class: trust.Nodes, Range: netip.MustParsePrefix("10.77.0.0/16"), Origin: trust.Declared},
	}})
	s.begin(2)
	layout := wire.Layout{Cluster: "west"}
	var piece []kvstore.Change
	say := func(c kvstore.Change) {
		if piece = append(piece, c); r.IntN(4) == 0 {
			s.deliver(layout, piece)
			piece = nil
		}
	}
	order := r.Perm(len(all))
	for _, i := range order {
		say(all[i].change)
		if r.IntN(3) == 0 {
			again := order[r.IntN(len(order))]
			say(kvstore.Change{Key: all[again].change.Key, Deleted: true})
		}
	}
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, i := range order {
		say(all[i].change)
	}
	s.deliver(layout, piece)
	if r.IntN(2) == 0 {
		s.rejudge()
	}
	out := map[string]string{}
	for key := range s.known {
		out[key] = "known"
	}
	l.engine.Read(func(state *merge.State) {
		for p, o := range state.Directory().Addresses {
			out[p.String()] = fmt.Sprint(o.Cluster, o.Identity)
		}
		for key, n := range state.Directory().Nodes {
			out[key.Name] = fmt.Sprint(n.Addresses, n.PodCIDRs)
		}
		out["services"] = fmt.Sprint(state.Services())
	})
	return out
}

func TestTrustInFiles(t *testing.T) {
	t.Parallel()
	base := "endpoints: [https://a:1]\ntrusted-ca-file: a\ncert-file: b\nkey-file: c\n"
	f, err := ParseFile([]byte(base+`
claims:
  podCIDRs: [10.2.0.0/16, "fd02::/48", 10.2.0.0/16]
  meshCIDR: 10.251.0.0/24
  nodeCIDRs: [192.168.0.0/16]
  externalCIDRs: [203.0.113.0/24]
import:
  namespaces: [shop]
  serviceSelector:
    matchLabels: {a: b}
    matchExpressions: [{key: c, operator: In, values: [d]}]
  quotas: {nodes: 7}
`), "/x")
	if err != nil || len(f.Claims) != 5 {
		t.Fatalf("%+v: %v", f.Claims, err)
	}
	rules := f.rules()
	d := trust.DefaultQuotas()
	d.Nodes = 7
	if rules.Quotas != d || rules.Services.String() != "a=b,c in (d)" || !slices.Equal(rules.Namespaces, []string{"shop"}) {
		t.Errorf("%+v", rules)
	}
	for text, want := range map[string]string{
		"claims: {podCIDRs: [10.2.0.0]}":                                                    "claims.podCIDRs",
		"claims: {podCIDRs: [10.2.0.1/16]}":                                                 "claims.podCIDRs",
		"claims: {meshCIDR: [0.0.0.0/0]}":                                                   "claims.meshCIDR",
		"claims: {externalCIDRs: [127.0.0.0/8]}":                                            "claims.externalCIDRs",
		"import: {namespaces: ['']}":                                                        "import.namespaces",
		"import: {quotas: {nodes: -1}}":                                                     "import.quotas",
		"import: {serviceSelector: {matchExpressions: [{key: a, operator: Like}]}}":         "import.serviceSelector",
		"import: {serviceSelector: {matchExpressions: [{key: a, operator: In, values: }]}}": "import.serviceSelector",
	} {
		if _, err := ParseFile([]byte(base+text), "/x"); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if f, err := ParseFile([]byte(base+"claims: {}"), "/x"); err != nil || f.Claims == nil || len(f.Claims) != 0 {
		t.Errorf("no claims at all: %v, %v", f.Claims, err)
	}
}
