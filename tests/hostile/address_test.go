package hostile

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// Whose the addresses are that peers claim. Those of the honest peer, with id 2,
// are as all peers' are.
func ourNode() netip.Addr      { return netip.MustParseAddr("192.0.2.11") }
func ourPod() netip.Addr       { return netip.MustParseAddr("10.1.1.10") }
func ourMesh() netip.Addr      { return netip.MustParseAddr("10.201.0.1") }
func honestNode() netip.Addr   { return netip.MustParseAddr("12.2.0.1") }
func honestPod() netip.Addr    { return netip.MustParseAddr("11.2.1.10") }
func honestMesh() netip.Addr   { return netip.MustParseAddr("14.2.0.1") }
func honestHealth() netip.Addr { return netip.MustParseAddr("11.2.1.200") }

// spell writes the value of an address by hand: the encoder refuses what is wrong.
func (p *peer) spell(old, now string) []byte {
	return bytes.ReplaceAll(p.addressValue(p.pod(50), nil), []byte(old), []byte(now))
}

// foreign are cases of an address that is not the peer's, in the whole world.
func foreign() []struct {
	name, text string
	why        trust.Reason
} {
	return []struct {
		name, text string
		why        trust.Reason
	}{
		{"our pod", ourPod().String(), trust.AddressConflict},
		{"our pod range", "10.1.1.99", trust.AddressConflict},
		{"our node", ourNode().String(), trust.AddressConflict},
		{"our mesh address", ourMesh().String(), trust.AddressConflict},
		{"our mesh range", "10.201.0.77", trust.AddressConflict},
		{"our IPv6 pod", "fd00:1:1::10", trust.AddressConflict},
		{"another peer's pod", honestPod().String(), trust.AddressConflict},
		{"another peer's range", "11.2.99.99", trust.AddressConflict},
		{"another peer's mesh address", honestMesh().String(), trust.AddressConflict},
		{"another peer's node", honestNode().String(), trust.AddressRange},
		{"nobody's", "100.64.0.1", trust.AddressRange},
		{"nobody's IPv6", "2001:db8:77::1", trust.AddressRange},
		{"link-local", "169.254.1.1", trust.AddressRange},
		{"metadata service", "169.254.169.254", trust.AddressRange},
		{"IPv6 link-local", "fe80::1", trust.AddressRange},
		{"multicast", "224.0.0.1", trust.AddressRange},
		{"IPv6 multicast", "ff02::1", trust.AddressRange},
		{"loopback", "127.0.0.1", trust.AddressRange},
		{"IPv6 loopback", "::1", trust.AddressRange},
		{"unspecified", "0.0.0.0", trust.AddressRange},
		{"IPv6 unspecified", "::", trust.AddressRange},
		{"broadcast", "255.255.255.255", trust.AddressRange},
	}
}

// addresses are cases of whose an address is, as the key of a pod and as the node
// that one is on.
func addresses() (out []semantic) {
	for _, f := range foreign() {
		out = append(out, one("address that is "+f.name, func(p *peer) saying {
			return refuse(f.why, p.layout().Prefix(wire.Addresses)+f.text, p.spell(p.pod(50).String(), f.text))
		}))
	}
	for _, r := range []struct {
		name, text, mask string
		why              trust.Reason
	}{
		{"0.0.0.0/0", "0.0.0.0/0", `"AAAAAA=="`, trust.AddressRange},
		{"::/0", "::/0", `"AAAAAAAAAAAAAAAAAAAAAA=="`, trust.AddressRange},
		{"11.0.0.0/8", "11.0.0.0/8", `"/wAAAA=="`, trust.AddressConflict},
		{"our pod range", "10.1.0.0/16", `"//8AAA=="`, trust.AddressConflict},
		{"another peer's pod range", "11.2.0.0/16", `"//8AAA=="`, trust.AddressConflict},
		{"loopback", "127.0.0.0/8", `"/wAAAA=="`, trust.AddressRange},
	} {
		out = append(out, one("address range "+r.name, func(p *peer) saying {
			ip, _, _ := strings.Cut(r.text, "/")
			value := bytes.ReplaceAll(p.spell(p.pod(50).String(), ip), []byte(`"Mask":null`), []byte(`"Mask":`+r.mask))
			return refuse(r.why, p.layout().Prefix(wire.Addresses)+r.text, value)
		}))
	}
	for _, f := range []struct {
		name string
		ip   netip.Addr
		why  trust.Reason
	}{
		{"our node", ourNode(), trust.AddressConflict},
		{"our pod", ourPod(), trust.AddressConflict},
		{"another peer's node", honestNode(), trust.AddressRange},
		{"another peer's pod", honestPod(), trust.AddressConflict},
		{"nobody's", netip.MustParseAddr("100.64.0.1"), trust.AddressRange},
		{"loopback", netip.MustParseAddr("127.0.0.1"), trust.AddressRange},
		{"unspecified", netip.MustParseAddr("0.0.0.0"), trust.AddressRange},
	} {
		out = append(out, one("pod on a node that is "+f.name, func(p *peer) saying {
			return refuse(f.why, p.addressKey(p.pod(50)), p.addressValue(p.pod(50), func(a *endpoint.Address) { a.HostIP = f.ip }))
		}))
	}
	return out
}

// addressValues are cases of what does not parse, or does not agree.
func addressValues() []semantic {
	at := func(name string, why trust.Reason, value func(*peer) []byte) semantic {
		return one("address with "+name, func(p *peer) saying { return refuse(why, p.addressKey(p.pod(50)), value(p)) })
	}
	text := func(name string, why trust.Reason, value string) semantic {
		return at(name, why, func(*peer) []byte { return []byte(value) })
	}
	key := func(name string, why trust.Reason, rest string) semantic {
		return one("address key "+name, func(p *peer) saying {
			return refuse(why, p.layout().Prefix(wire.Addresses)+rest, p.addressValue(p.pod(50), nil))
		})
	}
	return []semantic{
		at("another address in its value", trust.WrongCluster, func(p *peer) []byte { return p.addressValue(p.pod(51), nil) }),
		at("a mask that its key has not", trust.Malformed, func(p *peer) []byte { return p.spell(`"Mask":null`, `"Mask":"////AA=="`) }),
		at("invalid UTF-8", trust.Malformed, func(p *peer) []byte { return p.spell(`"web"`, "\"\xff\xfe\"") }),
		at("a huge name", trust.Malformed, func(p *peer) []byte { return p.spell(`"web"`, `"`+strings.Repeat("w", 5000)+`"`) }),
		at("a number beyond 32 bits", trust.Malformed, func(p *peer) []byte { return p.spell(`"ID":`, `"ID":99999`) }),
		at("a negative number", trust.Malformed, func(p *peer) []byte { return p.spell(`"ID":`, `"ID":-`) }),
		at("a wrong type", trust.Malformed, func(p *peer) []byte { return p.spell(`"ID":`, `"ID":"a", "x":`) }),
		at("a truncated value", trust.Malformed, func(p *peer) []byte { v := p.addressValue(p.pod(50), nil); return v[:len(v)/2] }),
		at("something behind its value", trust.Malformed, func(p *peer) []byte { return append(p.addressValue(p.pod(50), nil), "{}"...) }),
		at("an empty value", trust.Malformed, func(*peer) []byte { return []byte{} }),
		text("null", trust.Malformed, "null"),
		text("a list", trust.Malformed, "[]"),
		text("an empty object", trust.Malformed, "{}"),
		text("60,000 brackets", trust.Malformed, strings.Repeat("[", 60_000)),
		at("1.4 MiB", trust.TooLarge, func(p *peer) []byte {
			return p.spell(`"Metadata":""`, `"Metadata":"`+strings.Repeat("m", 1_400_000)+`"`)
		}),
		at("2 MiB", trust.TooLarge, func(p *peer) []byte { return p.spell(`"Metadata":""`, `"Metadata":"`+strings.Repeat("m", 2<<20)+`"`) }),
		key("that is no address", trust.Malformed, "abc"),
		key("that is empty", trust.Malformed, ""),
		key("that is mapped IPv4", trust.Malformed, "::ffff:11.3.1.50"),
		key("with a zone", trust.Malformed, "fe80::1%eth0"),
		key("with host bits", trust.Malformed, "11.3.1.50/24"),
		key("with leading zeros", trust.Malformed, "011.003.001.050"),
		key("of 1,500 bytes", trust.TooLarge, ""+strings.Repeat("1", 1500)),
		one("address key of another network", func(p *peer) saying {
			return saying{key: "cilium/state/ip/v1/other/11.3.1.50", value: p.addressValue(p.pod(50), nil), why: unheard}
		}),
	}
}
