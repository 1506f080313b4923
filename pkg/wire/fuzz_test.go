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
		checkFuzzed(t, value, func(value []byte) (cluster.Config, error) { return wire.DecodeConfig("c1", value) }, wire.EncodeConfig)
	})
}

func FuzzNode(f *testing.F) {
	l := wire.Layout{Cluster: "c1"}
	seed(f, goldenNode, `{"Name":"node-1","Cluster":"c1"}`,
		`{"Name":"node-1","Cluster":"c1","IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":[{"IP":"0.0.0.0","Mask":"AAAAAA=="}]}`)
	f.Fuzz(func(t *testing.T, value []byte) {
		checkFuzzed(t, value, at(l.DecodeNode, l.NodeKey("node-1")), wire.EncodeNode)
	})
}

// FuzzAddress takes the key too: half of the checks are about both.
func FuzzAddress(f *testing.F) {
	f.Add("10.1.0.5", []byte(goldenAddress))
	f.Add("10.0.0.0/8", []byte(`{"IP":"10.0.0.0","Mask":"/wAAAA==","HostIP":"","ID":2}`))
	f.Add("fd00::/64", []byte(`{"IP":"fd00::","Mask":"//////////8AAAAAAAAAAA==","HostIP":"fd00::1"}`))
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		l := wire.Layout{Cluster: "c1"}
		checkFuzzed(t, value, at(l.DecodeAddress, l.Prefix(wire.Addresses)+name), wire.EncodeAddress)
	})
}

func FuzzIdentity(f *testing.F) {
	l := wire.Layout{Cluster: "c1"}
	seed(f, goldenIdentity, "k8s:io.cilium.k8s.policy.cluster=c1;", "any:a=b=c:d;k8s:io.cilium.k8s.policy.cluster=c1;k8s:a-b=;k8s:a=;")
	f.Fuzz(func(t *testing.T, value []byte) {
		checkFuzzed(t, value, at(l.DecodeIdentity, l.IdentityKey(65836)), wire.EncodeIdentity)
	})
}

func FuzzService(f *testing.F) {
	l := wire.Layout{Cluster: "c1"}
	seed(f, goldenService, `{"cluster":"c1","namespace":"default","name":"web","backends":{"fd00::1":{"":{"Protocol":"UDP","Port":53}}}}`)
	f.Fuzz(func(t *testing.T, value []byte) {
		checkFuzzed(t, value, at(l.DecodeService, l.ServiceKey(service.Name{Namespace: "default", Name: "web"})), wire.EncodeService)
	})
}

// FuzzSlice gives the decoder any bytes as the compressed value.
func FuzzSlice(f *testing.F) {
	l := wire.Layout{Cluster: "c1"}
	value, err := wire.EncodeSlice(sampleSlice())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add(compress(f, make([]byte, 1<<20)))
	f.Fuzz(func(t *testing.T, value []byte) {
		checkFuzzed(t, value, at(l.DecodeSlice, l.SliceKey("default", "web-abc")), wire.EncodeSlice)
	})
}

// FuzzSliceMessage gives it any bytes inside a value that decompresses, which
// no fuzzer finds by itself.
func FuzzSliceMessage(f *testing.F) {
	l := wire.Layout{Cluster: "c1"}
	value, err := wire.EncodeSlice(sampleSlice())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(decompress(f, value))
	f.Add([]byte("\x0a\x02c1\x10\x01\x1a\x07default\x22\x07web-abc\x3a\x04IPv6"))
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		checkFuzzed(t, encoder.EncodeAll(message, nil), at(l.DecodeSlice, l.SliceKey("default", "web-abc")), wire.EncodeSlice)
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
