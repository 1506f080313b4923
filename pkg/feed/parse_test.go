package feed

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// What is read by hand is what the generated types read.
func TestReadAsGenerated(t *testing.T) {
	for _, c := range newServer().encode(everything()) {
		for _, text := range variants(c.encoded) {
			if !readsAsGenerated(t, text) {
				t.Errorf("%x is not read", text)
			}
		}
	}
}

// variants returns encodings of the same: with fields that nobody knows, of each
// type, around the others.
func variants(encoded []byte) [][]byte {
	unknown := func(b []byte) []byte {
		b = protowire.AppendVarint(protowire.AppendTag(b, 1000, protowire.VarintType), 1)
		b = protowire.AppendString(protowire.AppendTag(b, 1001, protowire.BytesType), "\xff")
		b = protowire.AppendFixed32(protowire.AppendTag(b, 1002, protowire.Fixed32Type), 2)
		b = protowire.AppendFixed64(protowire.AppendTag(b, 1003, protowire.Fixed64Type), 3)
		b = protowire.AppendTag(b, 1004, protowire.StartGroupType)
		b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), 1)
		return protowire.AppendTag(b, 1004, protowire.EndGroupType)
	}
	out := [][]byte{encoded, unknown(append([]byte{}, encoded...)), append(unknown(nil), encoded...)}
	number, typ, n := protowire.ConsumeTag(encoded)
	if body, m := protowire.ConsumeBytes(encoded[n:]); typ == protowire.BytesType && m > 0 {
		out = append(out, protowire.AppendBytes(protowire.AppendTag(nil, number, typ), append(unknown(nil), unknown(append([]byte{}, body...))...)))
	}
	return out
}

// readsAsGenerated compares what is read with what the generated types make of
// it, and reports whether it could be read.
func readsAsGenerated(t *testing.T, encoded []byte) bool {
	t.Helper()
	got, err := decode(encoded)
	if err != nil {
		if !errors.Is(err, errMalformed) {
			t.Errorf("error %v", err)
		}
		return false
	}
	var r feedpb.Resource
	if err := proto.Unmarshal(encoded, &r); err != nil {
		t.Errorf("read, but %v", err)
	}
	var want any
	switch v := got.value.(type) {
	case *service.View:
		want, err = viewFromProto(r.GetView())
	case *service.BackendSlice:
		want, err = sliceFromProto(r.GetSlice())
	case *endpoint.Owner:
		var p netip.Prefix
		p, want, err = addressFromProto(r.GetAddress())
		if p != got.name {
			t.Errorf("prefix %v instead of %v", got.name, p)
		}
	default:
		want = v // is read by them
	}
	if diff := cmp.Diff(want, got.value, byAddr, byPrefix); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	return true
}

func TestReadRefuses(t *testing.T) {
	name := func(s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), s)
	}
	message := func(number protowire.Number, body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), body)
	}
	for what, encoded := range map[string][]byte{
		"no UTF-8 in a view's name":    message(1, message(1, name("\xff"))),
		"no UTF-8 in a slice's name":   message(2, message(1, message(1, name("\xff")))),
		"a slice that ends too early":  message(2, []byte{1<<3 | 2, 5, 1}),
		"an address without a prefix":  message(9, nil),
		"a prefix of 33 bits":          message(9, message(1, append(message(1, make([]byte, 4)), 2<<3, 33))),
		"a host of 3 bytes":            message(9, append(message(1, message(1, make([]byte, 4))), message(4, make([]byte, 3))...)),
		"a field of number 0":          {0},
		"a group that ends unbegun":    message(1, []byte{1<<3 | 4}),
		"a number that does not end":   message(1, []byte{5 << 3, 0x80}),
		"a frontend without address":   message(1, message(2, nil)),
		"an endpoint without address":  message(2, message(3, nil)),
		"a port beyond all in a slice": message(2, message(2, []byte{3 << 3, 0x80, 0x80, 4})),
	} {
		if r, err := decode(encoded); !errors.Is(err, errMalformed) || r.value != nil {
			t.Errorf("%s: %+v, error %v", what, r, err)
		}
	}
}

// Texts that many have alike are in memory once, and not without bounds.
func TestWords(t *testing.T) {
	w := words{}
	for i := range maxWords + 10 {
		w.share(fmt.Appendf(nil, "%d", i))
	}
	if len(w) != maxWords {
		t.Errorf("%d words are remembered, want %d", len(w), maxWords)
	}
	for _, text := range []string{"5", fmt.Sprint(maxWords + 5)} {
		if got := w.share([]byte(text)); got != text {
			t.Errorf("%q instead of %q", got, text)
		}
	}
	text := []byte("west")
	w = words{}
	if n := testing.AllocsPerRun(10, func() { w.share(text) }); n > 0 {
		t.Errorf("%v allocations for a word that is known", n)
	}
}

func viewFromProto(m *feedpb.View) (*service.View, error) {
	v := &service.View{Name: nameFromProto(m.GetService())}
	v.Session, v.NodeLocal = time.Duration(m.GetSessionSeconds())*time.Second, m.GetNodeLocal()
	var err error
	if v.Frontends, err = frontendsFromProto(m.GetFrontends()); err != nil {
		return nil, err
	}
	if v.External, err = frontendsFromProto(m.GetExternal()); err != nil {
		return nil, err
	}
	for _, g := range m.GetGroups() {
		if g.GetTier() > math.MaxUint8 || g.GetWeight() > math.MaxUint16 {
			return nil, fmt.Errorf("%w: group of tier %d and weight %d", errMalformed, g.GetTier(), g.GetWeight())
		}
		v.Groups = append(v.Groups, service.Group{Clusters: g.GetClusters(), Tier: uint8(g.GetTier()), Weight: uint16(g.GetWeight())})
	}
	return v, nil
}

func frontendsFromProto(frontends []*feedpb.Frontend) ([]service.Frontend, error) {
	var out []service.Frontend
	for _, f := range frontends {
		ip, err := ipFromProto(f.GetIp())
		if err != nil {
			return nil, err
		}
		ports, err := portsFromProto(f.GetPorts())
		if err != nil {
			return nil, err
		}
		out = append(out, service.Frontend{IP: ip, Ports: ports})
	}
	return out, nil
}

func sliceFromProto(m *feedpb.BackendSlice) (*service.BackendSlice, error) {
	ports, err := portsFromProto(m.GetPorts())
	if err != nil {
		return nil, err
	}
	s := &service.BackendSlice{BackendSliceKey: keyFromProto(m.GetKey()), Ports: ports}
	for _, e := range m.GetEndpoints() {
		ip, err := ipFromProto(e.GetIp())
		if err != nil {
			return nil, err
		}
		state := service.BackendReady
		if e.GetState() != feedpb.Endpoint_READY {
			state = service.BackendTerminating // a state to come is no better than this
		}
		s.Endpoints = append(s.Endpoints, service.BackendEndpoint{IP: ip, State: state, Node: e.GetNode(), Pod: e.GetPod()})
	}
	return s, nil
}

func portsFromProto(ports []*feedpb.Port) ([]service.Port, error) {
	var out []service.Port
	for _, p := range ports {
		if p.GetPort() > math.MaxUint16 {
			return nil, fmt.Errorf("%w: port %d", errMalformed, p.GetPort())
		}
		out = append(out, service.Port{Name: p.GetName(), Protocol: service.Protocol(p.GetProtocol()), Port: uint16(p.GetPort())})
	}
	return out, nil
}

func addressFromProto(m *feedpb.Address) (netip.Prefix, *endpoint.Owner, error) {
	p, err := prefixFromProto(m.GetPrefix())
	if err != nil {
		return netip.Prefix{}, nil, err
	}
	owner := &endpoint.Owner{
		Cluster: m.GetCluster(), Identity: identity.Number(m.GetIdentity()), Namespace: m.GetNamespace(), Pod: m.GetPod(),
	}
	if host := m.GetHostIp(); len(host) > 0 {
		if owner.HostIP, err = ipFromProto(host); err != nil {
			return netip.Prefix{}, nil, err
		}
	}
	return p, owner, nil
}

// What the first batch hands over as it was decoded is what later ones decode
// anew, deletions heeded.
func TestWholeAgain(t *testing.T) {
	s := filled(t)
	in := newIncoming()
	in.revision = Revision{Epoch: "e", N: 2}
	v := view("more", "west")
	encoded, err := encodeView(v)
	if err != nil {
		t.Fatal(err)
	}
	batch := &feedpb.Batch{Last: true, Revision: revisionToProto(in.revision), Resources: [][]byte{encoded}}
	for _, name := range []any{view("web").Name, slice("web", 1).BackendSliceKey} {
		gone, err := encodeDeletion(name)
		if err != nil {
			t.Fatal(err)
		}
		batch.Resources = append(batch.Resources, gone)
	}
	if _, err := in.add(batch); err != nil {
		t.Fatal(err)
	}
	if _, err := s.accept(in); err != nil {
		t.Fatal(err)
	}
	first, ok, err := s.whole()
	if !ok || err != nil || s.fresh != nil || first.Delta.Views[v.Name] == nil {
		t.Fatalf("%v, error %v, %+v", ok, err, first)
	}
	again, ok, err := s.whole()
	if diff := cmp.Diff(first, again, byAddr); !ok || err != nil || diff != "" {
		t.Errorf("%v, error %v (-first +again):\n%s", ok, err, diff)
	}
	for name, v := range first.Delta.Views {
		if v == nil {
			t.Errorf("a whole state deletes %v", name)
		}
	}
}
