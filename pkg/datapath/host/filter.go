package host

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// ruleset is what our netfilter table shall hold.
type ruleset struct {
	sets   []set
	chains []chain
	// digest stands in each rule's comment: a table whose rules have it, and no
	// others, has the same rules. What is in the sets is not in it.
	digest string
}

type set struct {
	name   string
	v6     bool
	ranges []netip.Prefix
}

// chain is one that packets meet at a hook, or, without a hook, one that rules
// of others go to. Those stand before what goes to them.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    []filterRule
}

type filterRule struct {
	what  string
	exprs []expr.Any
	// counts names the metric's reason for what the rule refuses.
	counts string
}

// The names of our sets of sources and of natively routed peers.
const (
	setLocal  = "local"
	setNative = "native"
)

// The chains that rules go to.
const (
	chainTunnel = "tunnel"
	chainMSS    = "mss"
	chainInto   = "into"
	chainOut    = "out"
)

// natPriority puts our chain before those of source NAT (100), where CNIs have
// their masquerade, and before those that go a little ahead of it.
const natPriority = 90

// newRuleset returns the netfilter table for d:
//
//   - The outer packets of tunnels are not tracked: each has its own source
//     port, so that they would fill the table of connections.
//   - Nobody but the node itself sends to the mesh port: not what comes from a
//     pod's address, not what comes from a device that does not lead back to
//     its source, and nothing that is forwarded. Only the first two can see a
//     packet to the node's own address.
//   - Source NAT to what the source is already: the first NAT that a connection
//     meets is the one that it keeps, so no masquerade behind it counts. What
//     the node sends itself from another address than its mesh address gets
//     that one, as peers would not know the way back. What comes out of the
//     tunnel keeps its source, too, unless its destination was translated: a
//     NodePort's answer has to come back through the node.
//   - The MSS of TCP through the tunnel is what fits through.
//
// Each packet of the node meets guard and forward, the tunnel's both inside and
// outside. So there is one chain a hook, and what is not for it leaves after its
// port and TCP's flags; all else is in chains that only the others are sent to.
// Those two are looked at before the protocol that they are of: the kernel loads
// and compares them in place, while the protocol takes a call. So it is with the
// names of devices in postrouting, where a packet of each connection comes by.
func newRuleset(device string, d *Desired) ruleset {
	tunnel, mss := chain{name: chainTunnel}, chain{name: chainMSS, rules: []filterRule{
		{what: "TCP segments fit into the tunnel", exprs: join(interfaceIs(expr.MetaKeyOIFNAME, device), clampMSS())},
		{what: "TCP segments fit into the tunnel", exprs: join(interfaceIs(expr.MetaKeyIIFNAME, device), clampMSS())},
	}}
	guard := chain{
		name: "guard", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, priority: *nftables.ChainPriorityRaw,
		rules: []filterRule{{what: "the mesh port is guarded", exprs: join(udpTo(d.Port), goTo(chainTunnel))}},
	}
	untracked := chain{
		name: "untracked", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookOutput, priority: *nftables.ChainPriorityRaw,
		rules: []filterRule{{what: "tunnels are no connections", exprs: join(udpTo(d.Port), &expr.Notrack{})}},
	}
	forward := chain{
		name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, priority: *nftables.ChainPriorityMangle,
		rules: []filterRule{
			{what: "only nodes send to the mesh port", counts: reasonForwarded, exprs: join(udpTo(d.Port), refuse())},
			{what: "TCP segments fit into the tunnel", exprs: join(begins(), goTo(chainMSS))},
		},
	}
	into, out := chain{name: chainInto}, chain{name: chainOut}
	postrouting := chain{
		name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, priority: natPriority,
		rules: []filterRule{
			{what: "into the tunnel", exprs: join(interfaceIs(expr.MetaKeyOIFNAME, device), goTo(chainInto))},
			{what: "out of the tunnel", exprs: join(interfaceIs(expr.MetaKeyIIFNAME, device), goTo(chainOut))},
		},
	}
	var r ruleset
	for _, v6 := range []bool{false, true} {
		mesh := route.Family(d.Mesh, v6)
		if !mesh.IsValid() {
			continue
		}
		local, native := set{setLocal + suffix(v6), v6, d.local(v6)}, set{setNative + suffix(v6), v6, d.native(v6)}
		r.sets = append(r.sets, local, native)
		tunnel.rules = append(tunnel.rules, filterRule{
			what: "no pod sends to the mesh port", counts: reasonPod, exprs: join(sourceIn(v6, local.name), refuse()),
		})
		into.rules = append(into.rules,
			filterRule{what: "a pod's source stays its own", exprs: join(sourceIn(v6, local.name), keepSource(v6))},
			filterRule{what: "the node is known by its mesh address", exprs: join(sentHere(), sourceTo(mesh))},
		)
		out.rules = append(out.rules, filterRule{what: "a peer's source stays its own", exprs: join(untranslated(), family(v6), keepSource(v6))})
		postrouting.rules = append(postrouting.rules,
			filterRule{what: "a pod's source stays its own", exprs: join(destinationIn(v6, native.name), sourceIn(v6, local.name), keepSource(v6))},
			filterRule{what: "a peer's source stays its own", exprs: join(sourceIn(v6, native.name), destinationIn(v6, local.name), untranslated(), keepSource(v6))},
		)
	}
	tunnel.rules = append(tunnel.rules,
		filterRule{what: "tunnels come from where they lead to", counts: reasonDevice, exprs: join(strayed(), refuse())},
		filterRule{what: "tunnels are no connections", exprs: join(&expr.Notrack{})},
	)
	r.chains = []chain{tunnel, mss, into, out, guard, untracked, forward, postrouting}
	r.digest = r.sum()
	return r
}

func suffix(v6 bool) string {
	if v6 {
		return "6"
	}
	return "4"
}

// equal compares all that the tables are made of.
func (r *ruleset) equal(other *ruleset) bool {
	return r.digest == other.digest && slices.EqualFunc(r.sets, other.sets, func(a, b set) bool {
		return a.name == b.name && slices.Equal(a.ranges, b.ranges)
	})
}

// sum is over all that the table is made of but the elements of its sets.
func (r *ruleset) sum() string {
	digest := sha256.New()
	for _, s := range r.sets {
		fmt.Fprintln(digest, "set", s.name)
	}
	for _, c := range r.chains {
		fmt.Fprintln(digest, "chain", c.name, c.kind, c.hookNumber(), c.priority)
		for _, rule := range c.rules {
			fmt.Fprintln(digest, rule.what)
			for _, e := range rule.exprs {
				fmt.Fprintf(digest, "%T%+v\n", e, e)
			}
		}
	}
	return hex.EncodeToString(digest.Sum(nil)[:8])
}

// hookNumber is -1 for a chain that is at no hook.
func (c *chain) hookNumber() int64 {
	if c.hook == nil {
		return -1
	}
	return int64(*c.hook)
}

// comment is what a rule carries, and nft shows.
func (r *ruleset) comment(rule *filterRule) string {
	return fmt.Sprintf("%s: %s [%s]", Mark, rule.what, r.digest)
}

// join makes a rule of parts, which are expressions and lists of them.
func join(parts ...any) []expr.Any {
	var exprs []expr.Any
	for _, part := range parts {
		switch part := part.(type) {
		case []expr.Any:
			exprs = append(exprs, part...)
		case expr.Any:
			exprs = append(exprs, part)
		}
	}
	return exprs
}

func is(data ...byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

// interfaceIs matches as iptables writes it, which compares as much as it was given.
func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, is([]byte(name + "\x00")...)}
}

func udpTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		is(binaryutil.BigEndian.PutUint16(port)...),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, is(unix.IPPROTO_UDP),
	}
}

func family(v6 bool) []expr.Any {
	number := byte(unix.NFPROTO_IPV4)
	if v6 {
		number = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, is(number)}
}

// address loads the source of a packet of that family, or its destination.
func address(v6, destination bool) *expr.Payload {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	if v6 {
		load.Offset, load.Len = 8, 16
	}
	if destination {
		load.Offset += load.Len
	}
	return load
}

func sourceIn(v6 bool, set string) []expr.Any {
	return join(family(v6), address(v6, false), &expr.Lookup{SourceRegister: 1, SetName: set})
}

func destinationIn(v6 bool, set string) []expr.Any {
	return join(family(v6), address(v6, true), &expr.Lookup{SourceRegister: 1, SetName: set})
}

// sentHere matches what came in by no device.
func sentHere() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: 1}, is(0, 0, 0, 0)}
}

// strayed matches what came by a device by which its source is not reached.
func strayed() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true}, is(0, 0, 0, 0)}
}

// statusTranslated is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusTranslated = 1 << 5

// untranslated matches connections whose destination is what the client asked for.
func untranslated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(statusTranslated), Xor: make([]byte, 4),
		},
		is(0, 0, 0, 0),
	}
}

func refuse() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// goTo leaves the chain for another one, for good.
func goTo(chain string) *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }

func number32(v6 bool) uint32 {
	if v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func keepSource(v6 bool) []expr.Any {
	return []expr.Any{address(v6, false), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: number32(v6), RegAddrMin: 1}}
}

func sourceTo(a netip.Addr) []expr.Any {
	return join(family(a.Is6()),
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: number32(a.Is6()), RegAddrMin: 1})
}

// Of TCP's header: the flags are the second byte of the word at 12, the option
// MSS has kind 2 and its value at byte 2.
const (
	tcpWord, tcpSYN, tcpRST = 12, 2, 4
	tcpOptionMSS            = 2
)

// begins matches TCP's SYNs. It loads a whole word, as the kernel masks those in
// place.
func begins() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpWord, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{0, tcpSYN | tcpRST, 0, 0}, Xor: make([]byte, 4)},
		is(0, tcpSYN, 0, 0),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, is(unix.IPPROTO_TCP),
	}
}

// clampMSS lowers the MSS of SYNs to what fits the route there and the route
// back; `rt mtu` is the less of both. The kernel never raises it.
func clampMSS() []expr.Any {
	return []expr.Any{
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Op: expr.ExthdrOpTcpopt, Type: tcpOptionMSS, Offset: 2, Len: 2},
	}
}
