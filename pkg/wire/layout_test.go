package wire_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func TestKeys(t *testing.T) {
	state, cache := wire.Layout{Cluster: "c1"}, wire.Layout{Cluster: "c1", Cached: true}
	for _, c := range []struct{ got, want string }{
		{wire.HeartbeatKey, "cilium/.heartbeat"},
		{wire.ConfigKey("c1"), "cilium/cluster-config/c1"},
		{state.NodeKey("n"), "cilium/state/nodes/v1/c1/n"},
		{cache.NodeKey("n"), "cilium/cache/nodes/v1/c1/n"},
		{state.AddressKey(prefix("10.0.0.1/32")), "cilium/state/ip/v1/default/10.0.0.1"},
		{cache.AddressKey(prefix("10.0.0.1/32")), "cilium/cache/ip/v1/c1/10.0.0.1"},
		{state.AddressKey(prefix("fd00::1/128")), "cilium/state/ip/v1/default/fd00::1"},
		{cache.AddressKey(prefix("10.0.0.0/8")), "cilium/cache/ip/v1/c1/10.0.0.0/8"},
		{state.IdentityKey(65836), "cilium/state/identities/v1/id/65836"},
		{cache.IdentityKey(65836), "cilium/cache/identities/v1/c1/id/65836"},
		{state.ServiceKey(service.Name{Namespace: "a", Name: "b"}), "cilium/state/services/v1/c1/a/b"},
		{cache.ServiceKey(service.Name{Namespace: "a", Name: "b"}), "cilium/cache/services/v1/c1/a/b"},
		{state.SliceKey("a", "b-1"), "cilium/state/endpointslices/v1/c1/a/b-1"},
		{cache.SliceKey("a", "b-1"), "cilium/cache/endpointslices/v1/c1/a/b-1"},
		{state.Prefix(wire.ServiceExports), "cilium/state/serviceexports/v1/c1/"},
		{state.Marker(wire.Nodes), "cilium/synced/c1/cilium/state/nodes/v1"},
		{state.Marker(wire.Addresses), "cilium/synced/c1/cilium/state/ip/v1"},
		{state.Marker(wire.Identities), "cilium/synced/c1/cilium/state/identities/v1"},
		{cache.Marker(wire.Identities), "cilium/synced/c1/cilium/cache/identities/v1"},
		{cache.Marker(wire.Slices), "cilium/synced/c1/cilium/cache/endpointslices/v1"},
		{cache.Marker(wire.ServiceExports), "cilium/synced/c1/cilium/cache/serviceexports/v1"},
	} {
		if c.got != c.want {
			t.Errorf("got key %q, want %q", c.got, c.want)
		}
	}
}

// TestPrefixes: a prefix holds its own keys and nothing of a cluster whose
// name it begins.
func TestPrefixes(t *testing.T) {
	if len(wire.Kinds()) != 5 {
		t.Errorf("kinds %v", wire.Kinds())
	}
	for _, kind := range wire.Kinds() {
		for _, l := range layouts("a") {
			prefix := l.Prefix(kind)
			if !strings.HasSuffix(prefix, "/") {
				t.Errorf("prefix %q has no end", prefix)
			}
			shared := !l.Cached && (kind == wire.Identities || kind == wire.Addresses)
			other := wire.Layout{Cluster: "ab", Cached: l.Cached}.Prefix(kind)
			if !shared && strings.HasPrefix(other, prefix) {
				t.Errorf("prefix %q of cluster a holds %q of cluster ab", prefix, other)
			}
		}
	}
}

func TestReadable(t *testing.T) {
	keys, prefixes := wire.Readable("c1")
	if diff := cmp.Diff([]string{"cilium/.heartbeat", "cilium/cluster-config/c1"}, keys); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"cilium/state/", "cilium/synced/c1/"}, prefixes); diff != "" {
		t.Error(diff)
	}
}

func TestParseKeys(t *testing.T) {
	for _, l := range layouts("c1") {
		if got, err := l.ParseNodeKey(l.NodeKey("node-1.example")); err != nil || got != "node-1.example" {
			t.Errorf("node %q, %v", got, err)
		}
		for _, text := range []string{"10.0.0.1/32", "10.0.0.0/8", "fd00::1/128", "fd00::/64", "::/0"} {
			if got, err := l.ParseAddressKey(l.AddressKey(prefix(text))); err != nil || got != prefix(text) {
				t.Errorf("address %s, %v, want %s", got, err, text)
			}
		}
		if got, err := l.ParseIdentityKey(l.IdentityKey(65836)); err != nil || got != 65836 {
			t.Errorf("identity %v, %v", got, err)
		}
		name := service.Name{Namespace: "a", Name: "b"}
		if got, err := l.ParseServiceKey(l.ServiceKey(name)); err != nil || got != name {
			t.Errorf("service %v, %v", got, err)
		}
		if namespace, name, err := l.ParseSliceKey(l.SliceKey("a", "b.c")); err != nil || namespace != "a" || name != "b.c" {
			t.Errorf("slice %v/%v, %v", namespace, name, err)
		}
	}
}

func TestRefusedKeys(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	parsers := map[wire.Kind]func(string) error{
		wire.Nodes:      func(key string) error { _, err := l.ParseNodeKey(key); return err },
		wire.Addresses:  func(key string) error { _, err := l.ParseAddressKey(key); return err },
		wire.Identities: func(key string) error { _, err := l.ParseIdentityKey(key); return err },
		wire.Services:   func(key string) error { _, err := l.ParseServiceKey(key); return err },
		wire.Slices:     func(key string) error { _, _, err := l.ParseSliceKey(key); return err },
	}
	refused := map[wire.Kind][]string{
		wire.Nodes: {"", "a/b", "A", "-a", "a-", ".a", "a\x1b[2J", strings.Repeat("a", 254)},
		wire.Addresses: {
			"", "x", "10.0.0.1/32", "10.0.0.1/8", "10.0.0.0/33", "010.0.0.1", "10.0.0.0/08", "::ffff:10.0.0.1",
			"fd00::0", "FD00::1", "fe80::1%eth0", "fd00::1/128", "10.0.0.1/", "/8", "::ffff:0:0/96",
		},
		wire.Identities: {"", "0", "-1", "+1", "01", "0x10", "4294967296", "1/2"},
		wire.Services:   {"", "a", "a/", "/b", "a/b/c", "a.b/c", "a/B", strings.Repeat("a", 64) + "/b"},
		wire.Slices:     {"", "a", "a/", "/b", "a/b/c", "a/b\n"},
	}
	for kind, parse := range parsers {
		for _, suffix := range refused[kind] {
			if err := parse(l.Prefix(kind) + suffix); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s %q: %v, want %v", kind, suffix, err, wire.ErrMalformed)
			}
		}
		for _, key := range []string{"", "cilium", strings.Replace(l.Prefix(kind), "/state/", "/cache/", 1) + "a"} {
			if err := parse(key); !errors.Is(err, wire.ErrWrongCluster) {
				t.Errorf("%s %q: %v, want %v", kind, key, err, wire.ErrWrongCluster)
			}
		}
		err := parse(l.Prefix(kind) + strings.Repeat("a", 2000))
		if !errors.Is(err, wire.ErrTooLarge) || len(err.Error()) > 1000 {
			t.Errorf("%s: %v, want a short %v", kind, err, wire.ErrTooLarge)
		}
	}
	if err := parsers[wire.Nodes]("cilium/state/nodes/v1/c12/n"); !errors.Is(err, wire.ErrWrongCluster) {
		t.Errorf("node of another cluster: %v", err)
	}
}

func TestEncodeTime(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	if got := string(wire.EncodeTime(at)); got != "2026-01-02T02:04:05.000000006Z" {
		t.Errorf("got %q", got)
	}
}

// TestKeyOfInvalidAddress: a key is text even for the zero value.
func TestKeyOfInvalidAddress(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	if _, err := l.ParseAddressKey(l.AddressKey(netip.Prefix{})); !errors.Is(err, wire.ErrMalformed) {
		t.Error(err)
	}
}
