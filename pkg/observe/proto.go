package observe

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/observe/observepb"
)

var reasonPattern = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)

func eventToProto(e Event) *observepb.Event {
	return &observepb.Event{
		Time: e.Time.UnixNano(), Direction: string(e.Direction), Reason: e.Reason,
		Source: bytesOf(e.Source.Addr()), SourcePort: uint32(e.Source.Port()),
		Destination: bytesOf(e.Destination.Addr()), DestinationPort: uint32(e.Destination.Port()),
		Protocol: uint32(e.Protocol), Tunnel: bytesOf(e.Tunnel), ClusterId: uint32(e.ClusterID),
		Identity: uint32(e.Identity), Known: uint32(e.Known), Length: uint32(e.Length),
	}
}

// eventFromProto refuses what no agent of ours sends. Reasons are text, since
// newer agents know more, but none that a terminal would take for a command.
func eventFromProto(m *observepb.Event) (Event, error) {
	e := Event{
		Time: time.Unix(0, m.GetTime()), Direction: Direction(m.GetDirection()), Reason: m.GetReason(),
		Protocol: uint8(m.GetProtocol()), ClusterID: cluster.ID(m.GetClusterId()),
		Identity: identity.Number(m.GetIdentity()), Known: identity.Number(m.GetKnown()), Length: int(m.GetLength()),
	}
	if e.Direction != ToMesh && e.Direction != FromMesh {
		return Event{}, fmt.Errorf("direction %q", m.GetDirection())
	}
	if !reasonPattern.MatchString(e.Reason) {
		return Event{}, fmt.Errorf("reason %q", e.Reason)
	}
	if m.GetProtocol() > math.MaxUint8 {
		return Event{}, fmt.Errorf("protocol %d", m.GetProtocol())
	}
	var err error
	if e.Source, err = addrPort(m.GetSource(), m.GetSourcePort()); err != nil {
		return Event{}, err
	}
	if e.Destination, err = addrPort(m.GetDestination(), m.GetDestinationPort()); err != nil {
		return Event{}, err
	}
	e.Tunnel, err = addressOf(m.GetTunnel())
	return e, err
}

// bytesOf returns the 4 or 16 bytes of an address, none of the zero Addr.
func bytesOf(a netip.Addr) []byte { return a.AsSlice() }

func addressOf(b []byte) (netip.Addr, error) {
	if len(b) == 0 {
		return netip.Addr{}, nil
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address of %d bytes", len(b))
	}
	return a, nil
}

func addrPort(b []byte, port uint32) (netip.AddrPort, error) {
	a, err := addressOf(b)
	if err != nil || !a.IsValid() {
		return netip.AddrPort{}, err
	}
	if port > math.MaxUint16 {
		return netip.AddrPort{}, fmt.Errorf("port %d", port)
	}
	return netip.AddrPortFrom(a, uint16(port)), nil
}

// filterToProto leaves out what only the API server can judge: nodes and pods.
func filterToProto(f Filter) *observepb.Filter {
	return &observepb.Filter{
		Direction: string(f.Direction), Reasons: f.Reasons, From: prefixToProto(f.From.Prefix), To: prefixToProto(f.To.Prefix),
	}
}

func filterFromProto(m *observepb.Filter) (Filter, error) {
	f := Filter{Direction: Direction(m.GetDirection()), Reasons: m.GetReasons()}
	var err error
	if f.From.Prefix, err = prefixFromProto(m.GetFrom()); err != nil {
		return Filter{}, err
	}
	f.To.Prefix, err = prefixFromProto(m.GetTo())
	return f, err
}

func prefixToProto(p netip.Prefix) *observepb.Prefix {
	if !p.IsValid() {
		return nil
	}
	return &observepb.Prefix{Ip: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

func prefixFromProto(m *observepb.Prefix) (netip.Prefix, error) {
	if m == nil {
		return netip.Prefix{}, nil
	}
	a, ok := netip.AddrFromSlice(m.GetIp())
	p := netip.PrefixFrom(a, int(min(m.GetBits(), 255)))
	if !ok || !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf("prefix of %d bytes and %d bits", len(m.GetIp()), m.GetBits())
	}
	return p, nil
}
