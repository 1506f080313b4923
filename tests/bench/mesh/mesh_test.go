package mesh

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

func spec() Spec {
	return Spec{Clusters: 3, Nodes: 4, Identities: 5, Addresses: 30, Services: 6, Backends: 250}
}

// collect returns the state of a cluster, each key of which is there once.
func collect(t *testing.T, r Remote) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for pair, err := range r.State() {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[pair.Key]; twice {
			t.Fatalf("key %q is there twice", pair.Key)
		}
		all[pair.Key] = pair.Value
	}
	return all
}

// decode reads a value as a peer does.
func decode(t *testing.T, l wire.Layout, key string, value []byte) (kind wire.Kind) {
	t.Helper()
	var err error
	for _, kind = range wire.Kinds() {
		if strings.HasPrefix(key, l.Prefix(kind)) {
			break
		}
	}
	switch kind {
	case wire.Nodes:
		_, err = l.DecodeNode(key, value)
	case wire.Identities:
		_, err = l.DecodeIdentity(key, value)
	case wire.Addresses:
		_, err = l.DecodeAddress(key, value)
	case wire.Services:
		_, err = l.DecodeService(key, value)
	case wire.Slices:
		_, err = l.DecodeSlice(key, value)
	}
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

func TestState(t *testing.T) {
	total := 0
	for i := range spec().Clusters {
		for _, cached := range []bool{false, true} {
			r := Remote{Spec: spec(), Index: i, Cached: cached}
			all := collect(t, r)
			counts := map[wire.Kind]int{}
			for key, value := range all {
				counts[decode(t, r.Layout(), key, value)]++
			}
			want := map[wire.Kind]int{wire.Nodes: 4, wire.Identities: 5, wire.Addresses: 30, wire.Services: 6, wire.Slices: 18}
			if diff := cmp.Diff(want, counts); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(all, collect(t, r)); diff != "" {
				t.Errorf("another time it is another:\n%s", diff)
			}
			config, err := r.Config()
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.DecodeConfig(r.Name(), config.Value)
			if err != nil || got.ID != r.ID() || got.Cached != cached || config.Key != wire.ConfigKey(r.Name()) {
				t.Errorf("config %q %+v, %v", config.Key, got, err)
			}
			if cached {
				total += len(all)
			}
		}
	}
	if want := spec().Keys(); total != want {
		t.Errorf("%d keys, Keys says %d", total, want)
	}
}

// TestAddresses looks for an address that two workloads have.
func TestAddresses(t *testing.T) {
	owner := map[netip.Addr]string{}
	frontends := map[netip.AddrPort]bool{}
	for c := range spec().Clusters {
		r := Remote{Spec: spec(), Index: c}
		for i := range r.Services {
			if f := r.Frontend(i); frontends[f] {
				t.Errorf("two services have %v", f)
			} else {
				frontends[f] = true
			}
			for part := range r.Slices() {
				for n := range 3 {
					key, value, err := r.SlicePair(i, part, n)
					if err != nil {
						t.Fatal(err)
					}
					slice, err := r.Layout().DecodeSlice(key, value)
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range slice.Endpoints {
						if had := owner[e.Addresses[0]]; had != "" && had != r.Name()+key {
							t.Errorf("%v is in %s and in %s", e.Addresses[0], had, key)
						}
						owner[e.Addresses[0]] = r.Name() + key
					}
				}
			}
		}
	}
	if want := spec().TotalBackends() + 2*3*6*3; len(owner) != want {
		t.Errorf("%d addresses, want %d: all backends, and one of each of two versions of a slice", len(owner), want)
	}
	if len(frontends) != spec().TotalServices() {
		t.Errorf("%d frontends for %d services", len(frontends), spec().TotalServices())
	}
}

// TestVersions: what came later is valid, and another.
func TestVersions(t *testing.T) {
	r := Remote{Spec: spec()}
	for name, make := range map[string]func(n int) (string, []byte, error){
		"address":  func(n int) (string, []byte, error) { return r.AddressPair(r.Addresses + n) },
		"identity": func(n int) (string, []byte, error) { return r.IdentityPair(r.Identities + n) },
		"node":     func(n int) (string, []byte, error) { return r.NodePair(1, 1+n) },
		"slice":    func(n int) (string, []byte, error) { return r.SlicePair(1, 0, 1+n) },
	} {
		all := collect(t, r)
		for n := range 3 {
			key, value, err := make(n)
			if err != nil {
				t.Fatal(err)
			}
			decode(t, r.Layout(), key, value)
			if bytes.Equal(all[key], value) {
				t.Errorf("%s %d changes nothing", name, n)
			}
			all[key] = value
		}
	}
}

func TestManifests(t *testing.T) {
	for name, tc := range map[string]struct {
		write func(*bytes.Buffer) error
		want  int
		kind  string
	}{
		"services": {func(b *bytes.Buffer) error { return spec().WriteServices(b) }, 18, `"kind":"Service"`},
		"pods":     {func(b *bytes.Buffer) error { return WritePods(b, 12, 5) }, 12, `"kind":"Pod"`},
	} {
		var text bytes.Buffer
		if err := tc.write(&text); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(text.String(), tc.kind); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

// TestFitsIntoEtcd: a publisher leaves thousands of backends to the slices.
func TestFitsIntoEtcd(t *testing.T) {
	r := Remote{Spec: Spec{Clusters: 1, Nodes: 1, Services: 1, Backends: 10_000}}
	largest := 0
	for _, value := range collect(t, r) {
		largest = max(largest, len(value))
	}
	if largest > 64<<10 {
		t.Errorf("a value has %d bytes", largest)
	}
}

// What clusters claim is what they have: all of a cluster's addresses are in its
// ranges, and none in another's.
func TestClaims(t *testing.T) {
	t.Parallel()
	s := spec()
	in := func(ranges []string, a netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(text string) bool { return netip.MustParsePrefix(text).Contains(a) })
	}
	for index := range s.Clusters {
		r := Remote{Spec: s, Index: index}
		pods, hosts, _ := r.Claims()
		for other := range s.Clusters {
			o := Remote{Spec: s, Index: other}
			for i := range o.stride() {
				if in(pods, o.address(i)) != (o.Index == r.Index) {
					t.Fatalf("%s of %s, claims of %s: %v", o.address(i), o.Name(), r.Name(), pods)
				}
			}
		}
		for i := range r.Nodes {
			if !in(hosts, r.host(i)) {
				t.Errorf("host %s is not in %v", r.host(i), hosts)
			}
		}
	}
}
