package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/cilium/pkg/clustermesh/clustercfg"
	mcsapi "github.com/cilium/cilium/pkg/clustermesh/mcsapi/types"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/cilium/cilium/pkg/kvstore/store"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// writer is what publishes the state of a Cilium cluster: Cilium's client and
// its stores, a store for each kind.
type writer struct {
	client kvstore.BackendOperations
	stores map[wire.Kind]store.SyncStore
}

func newWriter(t *testing.T, e *ciliumEtcd, log *complaints) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	options := map[string]string{
		kvstore.EtcdOptionConfig:    e.access(userAdmin, e.file("admin.yaml")),
		kvstore.EtcdRateLimitOption: "100000",
	}
	client, failed := kvstore.NewClient(ctx, log.logger(), kvstore.EtcdBackendName, options, kvstore.ExtraOptions{ClusterName: readerName})
	if err := <-failed; err != nil {
		cancel()
		t.Fatal(err)
	}
	w := &writer{client: client, stores: map[wire.Kind]store.SyncStore{}}
	factory := store.NewFactory(log.logger(), store.MetricsProvider())
	var running sync.WaitGroup
	run := func(k wire.Kind, prefix, marker string) {
		w.stores[k] = factory.NewSyncStore(readerName, client, prefix, store.WSSWithSyncedKeyOverride(marker))
		running.Go(func() { w.stores[k].Run(ctx) })
	}
	for _, k := range kindsOf(readerName, readerID) {
		prefix := k.prefix
		if k.under != readerName { // else it is in the name of each key
			prefix = kvstore.JoinKey(k.prefix, k.under)
		}
		run(k.name, prefix, k.prefix)
	}
	run(wire.ServiceExports, mcsapi.ServiceExportStorePrefix, mcsapi.ServiceExportStorePrefix)
	t.Cleanup(func() {
		cancel()
		running.Wait()
		client.Close()
	})
	return w
}

// announce writes the heartbeat and the cluster's config.
func (w *writer) announce(t *testing.T) {
	t.Helper()
	if err := w.client.Update(t.Context(), kvstore.HeartbeatPath, []byte(time.Now().Format(time.RFC3339)), true); err != nil {
		t.Fatal(err)
	}
	exports := true
	config := cmtypes.CiliumClusterConfig{ID: readerID, Capabilities: cmtypes.CiliumClusterConfigCapabilities{
		SyncedCanaries: true, MaxConnectedClusters: 255, ServiceExportsEnabled: &exports,
		EndpointSlicesExportMode: cmtypes.EndpointSlicesExportModeServicesAndEndpointSlices,
	}}
	if err := clustercfg.Set(t.Context(), readerName, config, w.client); err != nil {
		t.Fatal(err)
	}
}

// fill writes values of a kind, each under its own key, and says when it is done.
func (w *writer) fill(t *testing.T, m maker, k wire.Kind, n int) map[string]store.Key {
	t.Helper()
	written := map[string]store.Key{}
	for len(written) < n {
		name, value := m.value(k)
		if i, ok := value.(*identityKey); ok {
			i.number = uint64(identity.GetMinimalAllocationIdentity(m.id)) + uint64(len(written))
			name = i.GetKeyName()
		}
		if pair, ok := value.(*identity.IPIdentityPair); ok {
			// Of the identities that are there, not any number.
			pair.ID = identity.GetMinimalAllocationIdentity(m.id) + identity.NumericIdentity(m.IntN(n))
		}
		if written[name] != nil {
			continue
		}
		written[name] = value
		if err := w.stores[k].UpsertKey(t.Context(), value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.stores[k].Synced(t.Context()); err != nil {
		t.Fatal(err)
	}
	return written
}

// peerStatus is what `causeway status` says of a peer.
type peerStatus struct {
	Name        string            `json:"name"`
	State       string            `json:"state"`
	Reason      string            `json:"reason"`
	Counts      map[string]int    `json:"counts"`
	Refused     map[string]uint32 `json:"refused"`
	LastRefused string            `json:"last_refused"`
}

func (s *site) peer(name string) (peerStatus, error) {
	// It ends with an error while something is not ready, and says so all the same.
	out, failed := exec.CommandContext(s.t.Context(), binary(s.t, "causeway"),
		"--admin-file", filepath.Join(s.dir, "data", "admin.yaml"), "--output", "json", "status").Output()
	var status struct {
		Peers []peerStatus `json:"peers"`
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return peerStatus{}, fmt.Errorf("causeway status: %w, %w", failed, err)
	}
	for _, p := range status.Peers {
		if p.Name == name {
			return p, nil
		}
	}
	return peerStatus{}, fmt.Errorf("no peer %s: %s", name, out)
}

// counted are the kinds in the words of the status.
var counted = map[wire.Kind]string{
	wire.Identities: "identities", wire.Nodes: "nodes", wire.Addresses: "addresses", wire.Services: "services", wire.Slices: "endpoint_slices",
}

func (s *site) awaitPeer(want map[wire.Kind]map[string]store.Key) {
	s.t.Helper()
	eventually(s.t, func() error {
		p, err := s.peer(readerName)
		if err != nil {
			return err
		}
		for kind, written := range want {
			if p.Counts[counted[kind]] != len(written) {
				return fmt.Errorf("%d %s, Cilium wrote %d: %+v", p.Counts[counted[kind]], kind, len(written), p)
			}
		}
		if len(p.Refused) > 0 {
			return fmt.Errorf("refused: %v, the last %s", p.Refused, p.LastRefused)
		}
		return nil
	})
}

// awaitCache waits until our own etcd has, under cache, what Cilium wrote, as a
// reader of a cache finds it.
func (s *site) awaitCache(want map[wire.Kind]map[string]store.Key) {
	s.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(s.dir, "data", "etcd", "etcd.sock")}})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	eventually(s.t, func() error {
		all := map[string][]byte{}
		s.read(client, "cilium/", all, clientv3.WithPrefix())
		var config cmtypes.CiliumClusterConfig
		if err := json.Unmarshal(all[kvstore.JoinKey(kvstore.ClusterConfigPrefix, readerName)], &config); err != nil || !config.Capabilities.Cached {
			return fmt.Errorf("config %+v, error %w", config, err)
		}
		for _, k := range kindsOf(readerName, readerID) {
			marker := kvstore.JoinKey(kvstore.SyncedPrefix, readerName, kvstore.StateToCachePrefix(k.prefix))
			if _, ok := all[marker]; !ok {
				return fmt.Errorf("no %s", marker)
			}
			if err := compareCache(k, want[k.name], all); err != nil {
				return err
			}
		}
		return nil
	})
}

// compareCache compares what is under a kind's cache with what was written, byte
// for byte.
func compareCache(k kind, want map[string]store.Key, all map[string][]byte) error {
	found := 0
	for key, value := range all {
		name, ok := strings.CutPrefix(key, k.cached)
		if !ok {
			continue
		}
		found++
		read := k.create()
		if err := read.Unmarshal(name, value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		written, ok := want[name]
		if !ok {
			return fmt.Errorf("%s is not what Cilium wrote", key)
		}
		again, err := written.Marshal()
		if err != nil {
			return err
		}
		if diff := diffValues(k.name, again, value); diff != "" {
			return fmt.Errorf("%s (-Cilium +cache):\n%s", key, diff)
		}
	}
	if found != len(want) {
		return fmt.Errorf("%d keys under %s, want %d", found, k.cached, len(want))
	}
	return nil
}

// A cluster that runs Cilium is a member: our API server, with no more rights than
// Cilium gives to any other cluster, has all that Cilium's stores write, and
// follows them.
func TestCiliumWrites(t *testing.T) {
	var log complaints
	e := newCiliumEtcd(t)
	w := newWriter(t, e, &log)
	w.announce(t)
	m := maker{Rand: rand.New(rand.NewPCG(3, 4)), cluster: readerName, id: readerID}
	written := map[wire.Kind]map[string]store.Key{}
	for _, kind := range wire.Kinds() {
		written[kind] = w.fill(t, m, kind, 100)
	}
	if err := w.stores[wire.ServiceExports].Synced(t.Context()); err != nil {
		t.Fatal(err)
	}

	s := newSite(t, "east", 1, dumpOf("east"))
	e.access(userRemote, filepath.Join(s.dir, "peers", readerName))
	s.awaitPeer(written)

	for _, kind := range wire.Kinds() {
		for name, value := range written[kind] {
			if len(written[kind]) == 60 {
				break
			}
			if err := w.stores[kind].DeleteKey(t.Context(), value); err != nil {
				t.Fatal(err)
			}
			delete(written[kind], name)
		}
	}
	s.awaitPeer(written)
	s.awaitCache(written)
	if lines := log.seen(); len(lines) > 0 {
		t.Errorf("Cilium complains: %q", lines)
	}
}
