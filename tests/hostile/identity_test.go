package hostile

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// reservedNumbers are addresses of a pod with each of the reserved identities.
func reservedNumbers() (out []semantic) {
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 128, 255} {
		why := trust.Identity
		if n == 3 || n == 5 { // unmanaged and init: any pod's
			why = ""
		}
		out = append(out, numbered(fmt.Sprintf("address with reserved identity %d", n), why, func(*peer) int { return n }))
	}
	return out
}

// numbered is a case of a pod's address with an identity.
func numbered(name string, why trust.Reason, number func(*peer) int) semantic {
	return one(name, func(p *peer) saying {
		value := p.addressValue(p.pod(50), func(a *endpoint.Address) { a.Identity = identity.Number(number(p)) })
		return saying{key: p.addressKey(p.pod(50)), value: value, why: why}
	})
}

// ofNode is a case of an address that only nodes have.
func ofNode(name string, n identity.Number, why trust.Reason, ip func(*peer) netip.Addr) semantic {
	return one(name, func(p *peer) saying {
		value := p.addressValue(ip(p), func(a *endpoint.Address) { a.Identity, a.HostIP = n, netip.Addr{} })
		return saying{key: p.addressKey(ip(p)), value: value, why: why}
	})
}

func numbers() []semantic {
	out := []semantic{
		numbered("address with an identity of east", trust.Identity, func(*peer) int { return 1<<16 | 256 }),
		numbered("address with an identity of another peer", trust.Identity, func(p *peer) int { return (p.id+1)<<16 | 256 }),
		numbered("address with the number before the block", trust.Identity, func(p *peer) int { return p.id<<16 - 1 }),
		{name: "address with the last number of the block", says: func(p *peer) []saying {
			last := p.number(0xffff - 256)
			address := p.addressValue(p.pod(50), func(a *endpoint.Address) { a.Identity = identity.Number(last) })
			return []saying{
				believe(p.layout().IdentityKey(identity.Number(last)), p.identityValue(0xffff-256)),
				believe(p.addressKey(p.pod(50)), address),
			}
		}},
		numbered("address with a local identity", trust.Identity, func(*peer) int { return 1<<24 | 1 }),
		numbered("address with the highest number", trust.Identity, func(*peer) int { return 1<<32 - 1 }),
		ofNode("own node is host", identity.Host, "", func(p *peer) netip.Addr { return p.v4(12, 0, 1) }),
		ofNode("own node is remote node", identity.RemoteNode, "", func(p *peer) netip.Addr { return p.v4(12, 0, 1) }),
		ofNode("own mesh address is remote node", identity.RemoteNode, "", func(p *peer) netip.Addr { return p.v4(14, 0, 1) }),
		ofNode("own health address", identity.Health, "", func(p *peer) netip.Addr { return p.pod(200) }),
		ofNode("no node is remote node", identity.RemoteNode, trust.Identity, func(p *peer) netip.Addr { return p.v4(12, 0, 9) }),
		ofNode("another peer's node is remote node", identity.RemoteNode, trust.Identity, func(*peer) netip.Addr { return honestNode() }),
		ofNode("another peer's health address", identity.Health, trust.Identity, func(*peer) netip.Addr { return honestHealth() }),
		ofNode("another peer's mesh address", identity.RemoteNode, trust.Identity, func(*peer) netip.Addr { return honestMesh() }),
		ofNode("our node is remote node", identity.RemoteNode, trust.Identity, func(*peer) netip.Addr { return ourNode() }),
		ofNode("our node is host", identity.Host, trust.Identity, func(*peer) netip.Addr { return ourNode() }),
		ofNode("our mesh address", identity.RemoteNode, trust.Identity, func(*peer) netip.Addr { return ourMesh() }),
		ofNode("pod is ingress", identity.Ingress, trust.Identity, func(p *peer) netip.Addr { return p.pod(60) }),
	}
	return out
}

// identities are cases of identity keys.
func identities() []semantic {
	key := func(p *peer, n int) string { return p.layout().IdentityKey(identity.Number(n)) }
	swap := func(p *peer, old, now string) []byte {
		return bytes.ReplaceAll(p.identityValue(1), []byte(old), []byte(now))
	}
	raw := func(name string, why trust.Reason, n func(*peer) int, value func(*peer) []byte) semantic {
		return one(name, func(p *peer) saying { return refuse(why, key(p, n(p)), value(p)) })
	}
	own := func(p *peer) int { return p.number(1) }
	text := func(name string, why trust.Reason, suffix string) semantic {
		return one(name, func(p *peer) saying {
			return refuse(why, p.layout().Prefix(wire.Identities)+suffix, p.identityValue(1))
		})
	}
	valid := func(p *peer) []byte { return p.identityValue(1) }
	return []semantic{
		raw("identity of east", trust.Identity, func(*peer) int { return 1<<16 | 300 }, valid),
		raw("identity of another peer", trust.Identity, func(p *peer) int { return (p.id+1)<<16 | 300 }, valid),
		raw("identity above all blocks", trust.Identity, func(*peer) int { return 1<<24 | 300 }, valid),
		raw("identity without cluster label", trust.Identity, own, func(p *peer) []byte {
			return swap(p, "k8s:io.cilium.k8s.policy.cluster="+p.name+";", "")
		}),
		raw("identity with another's cluster label", trust.Identity, own, func(p *peer) []byte { return swap(p, "cluster="+p.name, "cluster=east") }),
		raw("identity with two cluster labels", trust.Malformed, own, func(p *peer) []byte {
			label := "k8s:io.cilium.k8s.policy.cluster="
			return swap(p, label, label+"east;"+label)
		}),
		raw("identity with invalid UTF-8", trust.Malformed, own, func(p *peer) []byte { return swap(p, "web", "\xff\xfe") }),
		raw("identity that is empty", trust.Identity, own, func(*peer) []byte { return []byte{} }),
		raw("identity of bytes", trust.Malformed, own, func(*peer) []byte { return []byte{0, 1, 2, 3} }),
		raw("identity with a huge label", trust.TooLarge, own, func(p *peer) []byte { return swap(p, "web", strings.Repeat("w", 100<<10)) }),
		raw("identity of 1.4 MiB of labels", trust.TooLarge, own, func(p *peer) []byte {
			var labels strings.Builder
			for n := range 50_000 {
				fmt.Fprintf(&labels, "k8s:a%06d=xxxxxxxxxxxxxxxxx;", n)
			}
			return append([]byte(labels.String()), p.identityValue(1)...)
		}),
		text("identity key that is no number", trust.Malformed, "abc"),
		text("identity key with leading zeros", trust.Malformed, "000131400"),
		text("identity key that is negative", trust.Malformed, "-5"),
		text("identity key beyond 32 bits", trust.Malformed, "4294967297"),
		text("identity key of 1,500 digits", trust.TooLarge, strings.Repeat("1", 1500)),
		text("identity key with a slash", trust.Malformed, "131400/1"),
		text("identity key that is empty", trust.Malformed, ""),
	}
}
