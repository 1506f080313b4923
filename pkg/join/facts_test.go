package join

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestCompare(t *testing.T) {
	now := time.Unix(1_900_000_000, 0)
	good := func() Facts {
		return Facts{Name: "west", ID: 2, Size: 255, Version: "v1.2.3", Time: now.Add(4 * time.Minute), Ranges: prefixes("10.2.0.0/16", "fd00:2::/48")}
	}
	ours := Facts{Name: "east", ID: 1, Size: 255, Version: "v1.3.0", Time: now, Ranges: prefixes("10.1.0.0/16", "fd00:1::/48")}
	if wrong := Compare(ours, good()); wrong != nil {
		t.Fatalf("what fits does not: %q", wrong)
	}
	for want, spoil := range map[string]func(*Facts){
		`both clusters are named "east"`:                                             func(f *Facts) { f.Name = "east" },
		"east and west both have the id 1":                                           func(f *Facts) { f.ID = 1 },
		"of a mesh of 255 clusters and west of one of 511":                           func(f *Facts) { f.Size = 511 },
		"east runs version v1.3.0 and west runs v1.5.0":                              func(f *Facts) { f.Version = "v1.5.0" },
		"east runs version v1.3.0 and west runs v2.3.0":                              func(f *Facts) { f.Version = "v2.3.0" },
		"the clocks of east and west are 5m1s apart":                                 func(f *Facts) { f.Time = now.Add(-301 * time.Second) },
		"range 10.1.0.0/16 of east overlaps 10.1.7.0/24 of west":                     func(f *Facts) { f.Ranges = prefixes("10.0.0.0/24", "10.1.7.0/24") },
		"range fd00:1::/48 of east overlaps fd00::/16 of west: pods and nodes' mesh": func(f *Facts) { f.Ranges = prefixes("fd00::/16") },
	} {
		theirs := good()
		spoil(&theirs)
		if wrong := Compare(ours, theirs); len(wrong) != 1 || !strings.Contains(wrong[0], want) {
			t.Errorf("got %q, want one that says %q", wrong, want)
		}
	}
	all := Compare(ours, Facts{Name: "east", ID: 1, Size: 511, Version: "v3.0.0", Ranges: ours.Ranges})
	if len(all) != 6 {
		t.Errorf("%d reasons at once, want 6: %q", len(all), all)
	}
	unknown := good()
	unknown.Version = "unknown"
	if wrong := Compare(ours, unknown); wrong != nil {
		t.Errorf("a version that says nothing was judged: %q", wrong)
	}
}

// tidy and overlap against what they mean, address by address.
func TestRangesAgainstModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() (list []netip.Prefix, has [256]bool) {
		for range random.IntN(8) {
			bits := 24 + random.IntN(9)
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(256))}), bits).Masked()
			if bits == 24 && random.IntN(3) > 0 {
				continue
			}
			list = append(list, p)
			for i := range has {
				has[i] = has[i] || p.Contains(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
			}
		}
		return list, has
	}
	for range 2000 {
		a, hasA := draw()
		b, hasB := draw()
		a, b = tidy(slices.Clone(a)), tidy(slices.Clone(b))
		common := false
		for i := range hasA {
			address := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			n := 0
			for _, p := range a {
				if p.Contains(address) {
					n++
				}
			}
			if (n == 1) != hasA[i] || n > 1 {
				t.Fatalf("%s is in %d of %v, want it there: %t", address, n, a, hasA[i])
			}
			common = common || hasA[i] && hasB[i]
		}
		if _, _, found := overlap(a, b); found != common {
			t.Fatalf("%v and %v overlap: %t, want %t", a, b, found, common)
		}
	}
}

func TestTidyJoinsHalves(t *testing.T) {
	var nodes []netip.Prefix
	for i := range 256 {
		nodes = append(nodes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24))
	}
	if diff := cmp.Diff("10.1.0.0/16", tidy(nodes)[0].String()); diff != "" || len(tidy(nodes)) != 1 {
		t.Error(diff)
	}
}

// What anybody who has a connection can send is refused or understood, and never
// ends the process.
func FuzzJoinRequest(f *testing.F) {
	now := time.Unix(1_900_000_000, 0).UTC()
	good := &joinpb.JoinRequest{Step: &joinpb.JoinRequest_Offer{Offer: &joinpb.Offer{
		Id: []byte("12345678"), Secret: make([]byte, 32), Request: []byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"),
		Facts: protoFacts(Facts{
			Name: "west", ID: 2, Size: 255, Time: now, Ranges: prefixes("10.2.0.0/16", "::/0"), Addresses: []string{"h:1"},
			Claims: []trust.Claim{{Class: trust.Pods, Range: netip.MustParsePrefix("10.2.0.0/16")}, {Class: trust.Nodes, Range: netip.MustParsePrefix("fd00::/48")}},
		}),
	}}}
	text, err := proto.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte{})
	ours := Facts{
		Name: "east", ID: 1, Size: 255, Time: now, Ranges: prefixes("10.1.0.0/16"),
		Claims: []trust.Claim{{Class: trust.Mesh, Range: netip.MustParsePrefix("10.200.0.0/16")}},
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		request := new(joinpb.JoinRequest)
		if proto.Unmarshal(text, request) != nil {
			return
		}
		offer := request.GetOffer()
		_ = stranger.KeyOf(offer.GetRequest())
		_, _, _ = stranger.CheckAuthority("west", offer.GetAuthority())
		facts, err := ParseFacts(offer.GetFacts())
		if err != nil {
			return
		}
		_ = Compare(ours, facts)
		again, err := ParseFacts(protoFacts(facts))
		if err != nil || !cmp.Equal(facts, again, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })) {
			t.Errorf("%v became %v: %v", facts, again, err)
		}
	})
}
