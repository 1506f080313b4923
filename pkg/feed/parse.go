package feed

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// Views, backend slices and addresses are nearly all that an agent is told,
// hundreds of thousands when it starts. So they are read by hand: without the
// generated types, each of which would be made only to be copied, it takes
// a third of the time. What is read is the same, see TestReadAsGenerated.

// The ways in which a field is encoded, the lowest three bits of its tag.
const (
	asVarint uint64 = 0
	asBytes  uint64 = 2
)

// Tags of the fields, see feedpb/feed.proto.
const (
	resourceView    = 1<<3 | asBytes
	resourceSlice   = 2<<3 | asBytes
	resourceAddress = 9<<3 | asBytes

	viewService   = 1<<3 | asBytes
	viewFrontends = 2<<3 | asBytes
	viewGroups    = 3<<3 | asBytes
	viewExternal  = 4<<3 | asBytes
	viewSession   = 5<<3 | asVarint
	viewNodeLocal = 6<<3 | asVarint

	nameNamespace = 1<<3 | asBytes
	nameName      = 2<<3 | asBytes

	frontendIP    = 1<<3 | asBytes
	frontendPorts = 2<<3 | asBytes

	portName     = 1<<3 | asBytes
	portProtocol = 2<<3 | asBytes
	portNumber   = 3<<3 | asVarint

	groupClusters = 1<<3 | asBytes
	groupTier     = 2<<3 | asVarint
	groupWeight   = 3<<3 | asVarint

	sliceKeyField  = 1<<3 | asBytes
	slicePorts     = 2<<3 | asBytes
	sliceEndpoints = 3<<3 | asBytes

	keyService = 1<<3 | asBytes
	keyCluster = 2<<3 | asBytes
	keySlice   = 3<<3 | asBytes
	keyPart    = 4<<3 | asVarint

	endpointIP    = 1<<3 | asBytes
	endpointState = 2<<3 | asVarint
	endpointNode  = 3<<3 | asBytes
	endpointPod   = 4<<3 | asBytes

	addressPrefix    = 1<<3 | asBytes
	addressCluster   = 2<<3 | asBytes
	addressIdentity  = 3<<3 | asVarint
	addressHostIP    = 4<<3 | asBytes
	addressNamespace = 5<<3 | asBytes
	addressPod       = 6<<3 | asBytes

	prefixIP   = 1<<3 | asBytes
	prefixBits = 2<<3 | asVarint
)

// fields goes through the fields of a message, those that nobody knows too. The
// first error ends it, and stays in err.
type fields struct {
	tag   uint64 // number and encoding of the present field
	value uint64 // of a varint
	bytes []byte // of all others

	rest  []byte
	words words
	err   error
}

func (w words) fields(b []byte) fields { return fields{rest: b, words: w} }

func (f *fields) next() bool {
	if len(f.rest) == 0 || f.err != nil {
		return false
	}
	number, typ, n := protowire.ConsumeTag(f.rest)
	if n >= 0 {
		f.rest = f.rest[n:]
		f.tag = protowire.EncodeTag(number, typ)
		switch typ {
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(f.rest)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(f.rest)
		default:
			n = protowire.ConsumeFieldValue(number, typ, f.rest)
		}
	}
	if n < 0 {
		f.fail(protowire.ParseError(n))
		return false
	}
	f.rest = f.rest[n:]
	return true
}

func (f *fields) fail(err error) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %w", errMalformed, err)
	}
}

// take has err end the reading.
func (f *fields) take(err error) {
	if f.err == nil {
		f.err = err
	}
}

// text returns the field as text of its own, word as one that others share.
func (f *fields) text() string {
	f.check()
	return string(f.bytes)
}

func (f *fields) word() string {
	f.check()
	return f.words.share(f.bytes)
}

func (f *fields) check() {
	if !utf8.Valid(f.bytes) {
		f.fail(errors.New("text that is not UTF-8"))
	}
}

// number returns the field if it is at most bound.
func (f *fields) number(what string, bound uint32) uint32 {
	n := uint32(f.value)
	if n > bound {
		f.fail(fmt.Errorf("%s %d", what, n))
	}
	return n
}

// address returns the address that b is.
func (f *fields) address(b []byte) netip.Addr {
	ip, err := ipFromProto(b)
	f.take(err)
	return ip
}

// words holds texts that many resources have alike, like names of clusters, of
// nodes and of ports, so that they are in memory once.
type words map[string]string

// maxWords bounds what words remember: beyond it a text is its owner's alone.
const maxWords = 1 << 14

func (w words) share(b []byte) string {
	if s, ok := w[string(b)]; ok {
		return s
	}
	s := string(b)
	if w != nil && len(w) < maxWords {
		w[s] = s
	}
	return s
}

// outer returns the body of a Resource that is read by hand, and the tag that
// says what it is; 0 for any other.
func outer(encoded []byte) (tag uint64, body []byte, err error) {
	f := words(nil).fields(encoded)
	for f.next() {
		switch f.tag {
		case resourceView, resourceSlice, resourceAddress:
			tag, body = f.tag, f.bytes
		}
	}
	return tag, body, f.err
}

func (w words) view(b []byte) (*service.View, error) {
	v := &service.View{}
	f := w.fields(b)
	for f.next() {
		switch f.tag {
		case viewService:
			f.take(w.name(f.bytes, &v.Name))
		case viewFrontends:
			v.Frontends = append(v.Frontends, w.frontend(&f))
		case viewExternal:
			v.External = append(v.External, w.frontend(&f))
		case viewGroups:
			v.Groups = append(v.Groups, w.group(&f))
		case viewSession:
			v.Session = time.Duration(uint32(f.value)) * time.Second
		case viewNodeLocal:
			v.NodeLocal = f.value != 0
		}
	}
	return v, f.err
}

func (w words) name(b []byte, to *service.Name) error {
	f := w.fields(b)
	for f.next() {
		switch f.tag {
		case nameNamespace:
			to.Namespace = f.word()
		case nameName:
			to.Name = f.text()
		}
	}
	return f.err
}

func (w words) frontend(in *fields) (out service.Frontend) {
	f := w.fields(in.bytes)
	var ip []byte
	for f.next() {
		switch f.tag {
		case frontendIP:
			ip = f.bytes
		case frontendPorts:
			out.Ports = append(out.Ports, w.port(&f))
		}
	}
	out.IP = f.address(ip)
	in.take(f.err)
	return out
}

func (w words) port(in *fields) (out service.Port) {
	f := w.fields(in.bytes)
	for f.next() {
		switch f.tag {
		case portName:
			out.Name = f.word()
		case portProtocol:
			out.Protocol = service.Protocol(f.word())
		case portNumber:
			out.Port = uint16(f.number("port", math.MaxUint16))
		}
	}
	in.take(f.err)
	return out
}

func (w words) group(in *fields) (out service.Group) {
	f := w.fields(in.bytes)
	for f.next() {
		switch f.tag {
		case groupClusters:
			out.Clusters = append(out.Clusters, f.word())
		case groupTier:
			out.Tier = uint8(f.number("tier", math.MaxUint8))
		case groupWeight:
			out.Weight = uint16(f.number("weight", math.MaxUint16))
		}
	}
	in.take(f.err)
	return out
}

func (w words) slice(b []byte) (*service.BackendSlice, error) {
	s := &service.BackendSlice{Endpoints: make([]service.BackendEndpoint, 0, count(b, sliceEndpoints))}
	f := w.fields(b)
	for f.next() {
		switch f.tag {
		case sliceKeyField:
			f.take(w.key(f.bytes, &s.BackendSliceKey))
		case slicePorts:
			s.Ports = append(s.Ports, w.port(&f))
		case sliceEndpoints:
			s.Endpoints = append(s.Endpoints, w.endpoint(&f))
		}
	}
	if len(s.Endpoints) == 0 {
		s.Endpoints = nil
	}
	return s, f.err
}

// count returns how many fields have the tag; what is malformed ends it.
func count(b []byte, tag uint64) (n int) {
	for f := words(nil).fields(b); f.next(); {
		if f.tag == tag {
			n++
		}
	}
	return n
}

func (w words) key(b []byte, to *service.BackendSliceKey) error {
	f := w.fields(b)
	for f.next() {
		switch f.tag {
		case keyService:
			f.take(w.name(f.bytes, &to.Service))
		case keyCluster:
			to.Cluster = f.word()
		case keySlice:
			to.Slice = f.text()
		case keyPart:
			to.Part = int(uint32(f.value))
		}
	}
	return f.err
}

func (w words) endpoint(in *fields) (out service.BackendEndpoint) {
	f := w.fields(in.bytes)
	var ip []byte
	for f.next() {
		switch f.tag {
		case endpointIP:
			ip = f.bytes
		case endpointState:
			out.State = service.BackendReady
			if int32(f.value) != 0 {
				out.State = service.BackendTerminating // a state to come is no better than this
			}
		case endpointNode:
			out.Node = f.word()
		case endpointPod:
			out.Pod = f.text()
		}
	}
	out.IP = f.address(ip)
	in.take(f.err)
	return out
}

func (w words) address(b []byte) (p netip.Prefix, owner *endpoint.Owner, err error) {
	owner = &endpoint.Owner{}
	f := w.fields(b)
	var ip, host []byte
	bits := uint32(0)
	for f.next() {
		switch f.tag {
		case addressPrefix:
			w.prefix(&f, &ip, &bits)
		case addressCluster:
			owner.Cluster = f.word()
		case addressIdentity:
			owner.Identity = identity.Number(f.value)
		case addressHostIP:
			host = f.bytes
		case addressNamespace:
			owner.Namespace = f.word()
		case addressPod:
			owner.Pod = f.text()
		}
	}
	if len(host) > 0 {
		owner.HostIP = f.address(host)
	}
	addr := f.address(ip)
	if bits > uint32(addr.BitLen()) {
		f.fail(fmt.Errorf("a prefix of %d bits", bits))
	}
	return netip.PrefixFrom(addr, int(bits)), owner, f.err
}

func (w words) prefix(in *fields, ip *[]byte, bits *uint32) {
	f := w.fields(in.bytes)
	for f.next() {
		switch f.tag {
		case prefixIP:
			*ip = f.bytes
		case prefixBits:
			*bits = uint32(f.value)
		}
	}
	in.take(f.err)
}
