package conformance

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/cilium/cilium/pkg/kvstore/store"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// recode reads a value with our decoder of the kind and writes it with our encoder.
func recode(l wire.Layout, k wire.Kind, key string, value []byte) ([]byte, error) {
	switch k {
	case wire.Identities:
		return through(l.DecodeIdentity, wire.EncodeIdentity)(key, value)
	case wire.Nodes:
		return through(l.DecodeNode, wire.EncodeNode)(key, value)
	case wire.Addresses:
		return through(l.DecodeAddress, wire.EncodeAddress)(key, value)
	case wire.Services:
		return through(l.DecodeService, wire.EncodeService)(key, value)
	default:
		return through(l.DecodeSlice, wire.EncodeSlice)(key, value)
	}
}

func through[T any](decode func(string, []byte) (T, error), encode func(T) ([]byte, error)) func(string, []byte) ([]byte, error) {
	return func(key string, value []byte) ([]byte, error) {
		v, err := decode(key, value)
		if err != nil {
			return nil, err
		}
		return encode(v)
	}
}

// What Cilium writes, of every kind and at both places, we read, and write again
// as Cilium wrote it: nothing that it can say is lost on us.
func TestCiliumValues(t *testing.T) {
	const values = 400
	for _, k := range kindsOf("c1", 3) {
		t.Run(string(k.name), func(t *testing.T) {
			m := maker{Rand: rand.New(rand.NewPCG(1, 2)), cluster: "c1", id: 3}
			for range values {
				name, made := m.value(k.name)
				value, err := made.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				// Only what Cilium itself would take is asked of us.
				read := k.create()
				if err := read.Unmarshal(name, value); err != nil {
					t.Fatalf("Cilium refuses what it wrote itself: %v\n%s", err, show(made))
				}
				for layout, prefix := range map[wire.Layout]string{
					{Cluster: "c1"}:               k.keys(),
					{Cluster: "c1", Cached: true}: k.cached,
				} {
					if prefix != layout.Prefix(k.name) {
						t.Fatalf("Cilium's keys are under %s, ours under %s", prefix, layout.Prefix(k.name))
					}
					checkRecoded(t, k, layout, prefix, name, made, value)
				}
			}
		})
	}
}

func checkRecoded(t *testing.T, k kind, l wire.Layout, prefix, name string, made store.Key, value []byte) {
	t.Helper()
	ours, err := recode(l, k.name, prefix+name, value)
	if err != nil {
		t.Fatalf("%v\n%s", err, show(made))
	}
	if diff := diffValues(k.name, value, ours); diff != "" {
		t.Fatalf("%s%s (-Cilium +ours):\n%s", prefix, name, diff)
	}
	read := k.create()
	if err := read.Unmarshal(name, ours); err != nil {
		t.Fatalf("Cilium refuses ours: %v\n%s", err, show(made))
	}
}

// The config of a cluster, whatever it can do.
func TestCiliumConfig(t *testing.T) {
	yes, no := true, false
	for _, capabilities := range []cmtypes.CiliumClusterConfigCapabilities{
		{},
		{SyncedCanaries: true, MaxConnectedClusters: 255},
		{SyncedCanaries: true, Cached: true, MaxConnectedClusters: 511, ServiceExportsEnabled: &yes},
		{
			MaxConnectedClusters: 511, ServiceExportsEnabled: &no,
			EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeEndpointSlicesOnly,
		},
		{MaxConnectedClusters: 255, EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeServicesAndEndpointSlices},
	} {
		theirs := cmtypes.CiliumClusterConfig{ID: 7, Capabilities: capabilities}
		value, err := json.Marshal(theirs)
		if err != nil {
			t.Fatal(err)
		}
		config, err := wire.DecodeConfig("c1", value)
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		ours, err := wire.EncodeConfig(config)
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		// A size that is not said is 255, and we say it.
		if theirs.Capabilities.MaxConnectedClusters == 0 {
			theirs.Capabilities.MaxConnectedClusters = 255
		}
		want, err := json.Marshal(theirs)
		if err != nil || string(want) != string(ours) {
			t.Errorf("Cilium %s, ours %s, error %v", want, ours, err)
		}
	}
}

// The keys beside the values.
func TestCiliumKeys(t *testing.T) {
	if wire.HeartbeatKey != kvstore.HeartbeatPath || wire.HeartbeatInterval != kvstore.HeartbeatWriteInterval {
		t.Errorf("heartbeat %s every %v; Cilium's %s every %v", wire.HeartbeatKey, wire.HeartbeatInterval, kvstore.HeartbeatPath, kvstore.HeartbeatWriteInterval)
	}
	if got, want := wire.ConfigKey("c1"), kvstore.JoinKey(kvstore.ClusterConfigPrefix, "c1"); got != want {
		t.Errorf("config %s, Cilium's %s", got, want)
	}
	for _, k := range kindsOf("c1", 3) {
		for layout, prefix := range map[wire.Layout]string{
			{Cluster: "c1"}:               k.prefix,
			{Cluster: "c1", Cached: true}: kvstore.StateToCachePrefix(k.prefix),
		} {
			if got, want := layout.Marker(k.name), kvstore.JoinKey(kvstore.SyncedPrefix, "c1", prefix); got != want {
				t.Errorf("marker %s, Cilium's %s", got, want)
			}
		}
	}
}
