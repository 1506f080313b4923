package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/cilium/cilium/pkg/kvstore/store"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// breadth is what the dumps lack.
const breadth = "testdata/breadth.yaml"

// dumpOf is the dump of a real cluster.
func dumpOf(cluster string) string { return "../testdata/dumps/" + cluster + ".yaml" }

// sources are clusters whose objects are published: the dumps of real ones, and
// what those lack.
var sources = []struct {
	name     string
	id       uint32
	manifest string
	// kinds has how many keys of each kind must be there at least.
	kinds map[wire.Kind]int
}{
	{"east", 1, dumpOf("east"), map[wire.Kind]int{wire.Identities: 3, wire.Nodes: 2, wire.Addresses: 6, wire.Services: 2, wire.Slices: 3}},
	{"west", 2, dumpOf("west"), map[wire.Kind]int{wire.Identities: 1, wire.Nodes: 1, wire.Addresses: 1, wire.Services: 1, wire.Slices: 1}},
	{"breadth", 255, breadth, map[wire.Kind]int{wire.Identities: 2, wire.Nodes: 1, wire.Addresses: 3, wire.Services: 3, wire.Slices: 4}},
}

// Every key that we publish is one that Cilium reads, and every value passes its
// validators and is what Cilium itself would have written.
func TestPublished(t *testing.T) {
	for _, source := range sources {
		t.Run(source.name, func(t *testing.T) {
			all := newSite(t, source.name, source.id, source.manifest).published()
			checkSession(t, source.name, source.id, all)
			known, counts := checkValues(t, source.name, source.id, all)
			for kind, least := range source.kinds {
				if counts[kind] < least {
					t.Errorf("%d keys of %s, want %d at least", counts[kind], kind, least)
				}
			}
			checkReferences(t, known)
		})
	}
}

// checkSession looks at what is no state, and takes it out of all.
func checkSession(t *testing.T, name string, id uint32, all map[string][]byte) {
	t.Helper()
	take := func(key string) []byte {
		value, ok := all[key]
		if !ok {
			t.Errorf("there is no %s", key)
		}
		delete(all, key)
		return value
	}
	if _, err := time.Parse(time.RFC3339, string(take(kvstore.HeartbeatPath))); err != nil {
		t.Errorf("heartbeat: %v", err)
	}
	// Markers: what Cilium's manager of watchers waits for, key by key.
	for _, prefix := range append(prefixesOf(name, id), mcsapi.ServiceExportStorePrefix) {
		take(kvstore.JoinKey(kvstore.SyncedPrefix, name, prefix))
	}
	value := take(kvstore.JoinKey(kvstore.ClusterConfigPrefix, name))
	var config cmtypes.CiliumClusterConfig
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		t.Fatalf("config %s: %v", value, err)
	}
	if config.ID != id || !config.Capabilities.SyncedCanaries || config.Capabilities.Cached {
		t.Errorf("config %s", value)
	}
	local := cmtypes.ClusterInfo{ID: readerID, Name: readerName, MaxConnectedClusters: 255}
	if err := local.ValidateRemoteConfig(config); err != nil {
		t.Errorf("Cilium refuses config %s: %v", value, err)
	}
	if again, err := json.Marshal(config); err != nil || !bytes.Equal(again, value) {
		t.Errorf("config %s, Cilium writes %s, error %v", value, again, err)
	}
}

// prefixesOf are the prefixes that Cilium waits for.
func prefixesOf(name string, id uint32) (out []string) {
	for _, k := range kindsOf(name, id) {
		out = append(out, k.prefix)
	}
	return out
}

// checkValues has Cilium read all values and write them again.
func checkValues(t *testing.T, name string, id uint32, all map[string][]byte) (known map[wire.Kind]map[string]store.Key, counts map[wire.Kind]int) {
	t.Helper()
	kinds := kindsOf(name, id)
	known, counts = map[wire.Kind]map[string]store.Key{}, map[wire.Kind]int{}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		k, short, err := kindOf(kinds, key)
		if err != nil {
			t.Error(err)
			continue
		}
		counts[k.name]++
		value := all[key]
		read := k.create()
		if err := read.Unmarshal(short, value); err != nil {
			t.Errorf("Cilium refuses %s = %q: %v", key, value, err)
			continue
		}
		// Cilium's names of services, slices and nodes begin with the cluster.
		if got := read.GetKeyName(); got != short && got != name+"/"+short {
			t.Errorf("%s is %s to Cilium", key, got)
		}
		again, err := read.Marshal()
		if err != nil {
			t.Errorf("Cilium does not write %s: %v", key, err)
		} else if diff := diffValues(k.name, again, understood(t, k.name, name, key, value)); diff != "" {
			t.Errorf("%s (-Cilium +ours):\n%s", key, diff)
		}
		if known[k.name] == nil {
			known[k.name] = map[string]store.Key{}
		}
		known[k.name][short] = read
	}
	return known, counts
}

// understood is the part of a value that Cilium has a place for. Which object an
// endpoint is, it passes over: field 4 of Kubernetes' own message, see wire.
func understood(t *testing.T, kind wire.Kind, cluster, key string, value []byte) []byte {
	t.Helper()
	if kind != wire.Slices {
		return value
	}
	slice, err := wire.Layout{Cluster: cluster}.DecodeSlice(key, value)
	if err != nil {
		t.Fatal(err)
	}
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		e.TargetKind, e.TargetNamespace, e.TargetName, e.TargetUID = "", "", "", ""
	}
	if value, err = wire.EncodeSlice(slice); err != nil {
		t.Fatal(err)
	}
	return value
}

// diffValues compares two encodings byte for byte; of slices those of the
// message, since compressors differ.
func diffValues(kind wire.Kind, want, got []byte) string {
	if kind == wire.Slices {
		want, got = decompress(want), decompress(got)
	}
	if bytes.Equal(want, got) {
		return ""
	}
	return cmp.Diff(strings.ReplaceAll(string(want), ",", ",\n"), strings.ReplaceAll(string(got), ",", ",\n"))
}

func decompress(value []byte) []byte {
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		return []byte(err.Error())
	}
	defer decoder.Close()
	message, err := decoder.DecodeAll(value, nil)
	if err != nil {
		return []byte(err.Error())
	}
	return message
}

// checkReferences: what one value names, another one is. Cilium would wait for
// it in vain.
func checkReferences(t *testing.T, known map[wire.Kind]map[string]store.Key) {
	t.Helper()
	hosts := map[string]bool{}
	for _, n := range known[wire.Nodes] {
		for _, address := range nodeOf(n).IPAddresses {
			hosts[address.IP.String()] = true
		}
	}
	for key, value := range known[wire.Addresses] {
		pair := value.(*identity.IPIdentityPair)
		if !hosts[pair.HostIP.String()] {
			t.Errorf("%s runs on %s, which is no node's", key, pair.HostIP)
		}
		if _, ok := known[wire.Identities][strconv.FormatUint(uint64(pair.ID), 10)]; !ok && !pair.ID.IsReservedIdentity() {
			t.Errorf("%s has identity %d, which is not published", key, pair.ID)
		}
		if _, err := netip.ParseAddr(key); err != nil {
			t.Error(fmt.Errorf("address of a pod: %w", err))
		}
	}
}
