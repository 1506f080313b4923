package wire_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// checkFuzzed: what is refused says why by one of the sentinels; what is taken
// survives being written and read again.
func checkFuzzed[T any](t *testing.T, value []byte, decode func([]byte) (T, error), encode func(T) ([]byte, error)) {
	t.Helper()
	got, err := decode(value)
	if err != nil {
		checkSentinel(t, err)
		return
	}
	again, err := encode(got)
	if errors.Is(err, wire.ErrTooLarge) {
		// One byte of a value may need six when it is written, as \u001b.
		return
	}
	if err != nil {
		t.Fatalf("%q was read but cannot be written: %v", value, err)
	}
	back, err := decode(again)
	if err != nil {
		t.Fatalf("%q was written but cannot be read: %v", again, err)
	}
	if diff := cmp.Diff(got, back, compareValues); diff != "" {
		t.Errorf("changed on the way (-first +second):\n%s", diff)
	}
}

func checkSentinel(t *testing.T, err error) {
	t.Helper()
	for _, sentinel := range []error{
		wire.ErrMalformed, wire.ErrTooLarge, wire.ErrWrongCluster, wire.ErrMismatch, cluster.ErrID, cluster.ErrSize,
	} {
		if errors.Is(err, sentinel) {
			return
		}
	}
	t.Errorf("%v wraps no sentinel", err)
}

func seed(f *testing.F, values ...string) {
	for _, value := range values {
		f.Add([]byte(value))
	}
}

func FuzzConfig(f *testing.F) {
	seed(f, goldenConfig, `{"id":511,"capabilities":{"cached":true,"maxConnectedClusters":511}}`, `{}`, `null`)
	f.Fuzz(func(t *testing.T, value []byte) {
		checkFuzzed(t, value, func(value []byte) (cluster.Config, error) { return wire.DecodeConfig("c1", value) }, encodeConfig)
	})
}

// The fuzz tests of values take the rest of the key too: half of the checks are
// about both. Beside these seeds stand real values in testdata/fuzz: what the
// dumps in tests/testdata come to, and what the reference's own types marshal.

func FuzzNode(f *testing.F) {
	f.Add("node-1", []byte(goldenNode))
	f.Add("node-1", []byte(`{"Name":"node-1","Cluster":"c1"}`))
	f.Add("node-1", []byte(`{"Name":"node-1","Cluster":"c1","IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":[{"IP":"0.0.0.0","Mask":"AAAAAA=="}]}`))
	fuzzValues(f, wire.Nodes, wire.Layout.DecodeNode, wire.EncodeNode)
}

func FuzzAddress(f *testing.F) {
	f.Add("10.1.0.5", []byte(goldenAddress))
	f.Add("10.0.0.0/8", []byte(`{"IP":"10.0.0.0","Mask":"/wAAAA==","HostIP":"","ID":2}`))
	f.Add("fd00::/64", []byte(`{"IP":"fd00::","Mask":"//////////8AAAAAAAAAAA==","HostIP":"fd00::1"}`))
	fuzzValues(f, wire.Addresses, wire.Layout.DecodeAddress, wire.EncodeAddress)
}

func FuzzIdentity(f *testing.F) {
	f.Add("65836", []byte(goldenIdentity))
	f.Add("65836", []byte("k8s:io.cilium.k8s.policy.cluster=c1;"))
	f.Add("1", []byte("any:a=b=c:d;k8s:io.cilium.k8s.policy.cluster=c1;k8s:a-b=;k8s:a=;"))
	fuzzValues(f, wire.Identities, wire.Layout.DecodeIdentity, wire.EncodeIdentity)
}

func FuzzService(f *testing.F) {
	f.Add("default/web", []byte(goldenService))
	f.Add("default/web", []byte(`{"cluster":"c1","namespace":"default","name":"web","backends":{"fd00::1":{"":{"Protocol":"UDP","Port":53}}}}`))
	fuzzValues(f, wire.Services, wire.Layout.DecodeService, wire.EncodeService)
}

// FuzzSlice gives the decoder any bytes as the compressed value.
func FuzzSlice(f *testing.F) {
	value, err := wire.EncodeSlice(sampleSlice())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("default/web-abc", value)
	f.Add("default/web-abc", compress(f, make([]byte, 1<<20)))
	fuzzValues(f, wire.Slices, wire.Layout.DecodeSlice, wire.EncodeSlice)
}

func fuzzValues[T any](f *testing.F, kind wire.Kind, decode func(wire.Layout, string, []byte) (T, error), encode func(T) ([]byte, error)) {
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		l := wire.Layout{Cluster: "c1"}
		read := func(value []byte) (T, error) { return decode(l, l.Prefix(kind)+name, value) }
		checkFuzzed(t, value, read, encode)
	})
}

// FuzzSliceMessage gives it any bytes inside a value that decompresses, which
// no fuzzer finds by itself.
func FuzzSliceMessage(f *testing.F) {
	value, err := wire.EncodeSlice(sampleSlice())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("default/web-abc", decompress(f, value))
	f.Add("default/web-abc", []byte("\x0a\x02c1\x10\x01\x1a\x07default\x22\x07web-abc\x3a\x04IPv6"))
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		f.Fatal(err)
	}
	l := wire.Layout{Cluster: "c1"}
	f.Fuzz(func(t *testing.T, name string, message []byte) {
		checkFuzzed(t, encoder.EncodeAll(message, nil), at(l.DecodeSlice, l.Prefix(wire.Slices)+name), wire.EncodeSlice)
	})
}

// FuzzKeys: a key that parses is the only key of what it means.
func FuzzKeys(f *testing.F) {
	for _, l := range layouts("c1") {
		f.Add(l.NodeKey("node-1"))
		f.Add(l.AddressKey(prefix("10.0.0.0/8")))
		f.Add(l.AddressKey(prefix("fd00::1/128")))
		f.Add(l.IdentityKey(identity.Number(65836)))
		f.Add(l.ServiceKey(service.Name{Namespace: "default", Name: "web"}))
		f.Add(l.SliceKey("default", "web-abc"))
	}
	f.Fuzz(func(t *testing.T, key string) {
		for _, l := range layouts("c1") {
			checkKey(t, key, l.ParseNodeKey, l.NodeKey)
			checkKey(t, key, l.ParseAddressKey, l.AddressKey)
			checkKey(t, key, l.ParseIdentityKey, l.IdentityKey)
			checkKey(t, key, l.ParseServiceKey, l.ServiceKey)
			checkKey(t, key, func(key string) (service.Name, error) {
				namespace, name, err := l.ParseSliceKey(key)
				return service.Name{Namespace: namespace, Name: name}, err
			}, func(n service.Name) string { return l.SliceKey(n.Namespace, n.Name) })
		}
	})
}

func checkKey[T any](t *testing.T, key string, parse func(string) (T, error), format func(T) string) {
	t.Helper()
	parsed, err := parse(key)
	if err != nil {
		checkSentinel(t, err)
		return
	}
	if again := format(parsed); again != key {
		t.Errorf("key %q is also %q", key, again)
	}
}
