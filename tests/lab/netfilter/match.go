package netfilter

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// register is where all matches of this package put what they compare.
const register = 1

// Join makes one rule of parts.
func Join(parts ...Rule) Rule { return slices.Concat(parts...) }

// Source matches packets from an address of the prefix, whose family the table
// must have, or another match must have found.
func Source(prefix netip.Prefix) Rule { return address(prefix, 12, 8, expr.CmpOpEq) }

// Target matches packets to an address of the prefix.
func Target(prefix netip.Prefix) Rule { return address(prefix, 16, 24, expr.CmpOpEq) }

// NotTarget matches packets to any other address.
func NotTarget(prefix netip.Prefix) Rule { return address(prefix, 16, 24, expr.CmpOpNeq) }

// address compares what lies at an offset of the IPv4 or the IPv6 header.
func address(prefix netip.Prefix, offset4, offset6 uint32, op expr.CmpOp) Rule {
	offset := offset4
	if prefix.Addr().Is6() {
		offset = offset6
	}
	size := prefix.Addr().BitLen() / 8
	return Rule{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: uint32(size),
			Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()), Xor: make([]byte, size),
		},
		&expr.Cmp{Op: op, Register: register, Data: prefix.Masked().Addr().AsSlice()},
	}
}

// EtherType matches frames that hold a packet of the family, in a bridge's table.
func EtherType(v6 bool) Rule {
	kind := uint16(unix.ETH_P_IP)
	if v6 {
		kind = unix.ETH_P_IPV6
	}
	return Rule{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.BigEndian.AppendUint16(nil, kind)},
	}
}

// In and Out match what comes in by, or is about to leave by, a device whose
// name begins so.
func In(device string) Rule  { return meta(expr.MetaKeyIIFNAME, expr.CmpOpEq, device) }
func Out(device string) Rule { return meta(expr.MetaKeyOIFNAME, expr.CmpOpEq, device) }

func meta(key expr.MetaKey, op expr.CmpOp, beginning string) Rule {
	return Rule{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: []byte(beginning)},
	}
}

// Device is the whole name of a device, as In and Out take it, so that no longer
// name matches.
func Device(name string) string { return name + "\x00" }

// ICMPv6 matches messages of one type.
func ICMPv6(kind byte) Rule {
	return Rule{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{kind}},
	}
}

// NoWayBack matches packets whose source is not reached by the device that they
// came in by: what strict reverse path filters drop.
func NoWayBack() Rule {
	return Rule{
		&expr.Fib{Register: register, FlagSADDR: true, FlagMARK: true, FlagIIF: true, ResultOIF: true, FlagPRESENT: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{0}},
	}
}

// Established matches packets of a connection that is known, or that one
// brought about.
func Established() Rule {
	return Rule{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
			Xor:  make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// Counted counts what reaches it.
func Counted() Rule { return Rule{&expr.Counter{}} }

// Accept ends the chain, not those of other tables; Drop ends the packet.
func Accept() Rule { return Rule{&expr.Verdict{Kind: expr.VerdictAccept}} }
func Drop() Rule   { return Rule{&expr.Verdict{Kind: expr.VerdictDrop}} }

// Masquerade gives packets the node's address on the device that they leave by.
func Masquerade() Rule { return Rule{&expr.Masq{}} }

// KeepSource gives packets from an address of the prefix the source that they
// have, so that nothing that comes later in postrouting gives them another: a
// connection's source is decided once.
func KeepSource(prefix netip.Prefix) Rule {
	family, offset := uint32(unix.NFPROTO_IPV4), uint32(12)
	if prefix.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, 8
	}
	size := uint32(prefix.Addr().BitLen() / 8)
	return Join(Source(prefix), Rule{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: family, RegAddrMin: register},
	})
}
