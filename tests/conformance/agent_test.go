package conformance

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cilium/cilium/api/v1/models"
	"github.com/cilium/cilium/pkg/clustermesh"
	"github.com/cilium/cilium/pkg/clustermesh/common"
	"github.com/cilium/cilium/pkg/clustermesh/endpointslice"
	"github.com/cilium/cilium/pkg/clustermesh/observer"
	servicestore "github.com/cilium/cilium/pkg/clustermesh/store"
	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/clustermesh/wait"
	"github.com/cilium/cilium/pkg/identity"
	identitycache "github.com/cilium/cilium/pkg/identity/cache"
	identitykey "github.com/cilium/cilium/pkg/identity/key"
	"github.com/cilium/cilium/pkg/ipcache"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/cilium/cilium/pkg/kvstore/store"
	"github.com/cilium/cilium/pkg/metrics"
	nodetypes "github.com/cilium/cilium/pkg/node/types"
	"github.com/cilium/cilium/pkg/source"
	"github.com/cilium/hive"
	"github.com/cilium/hive/cell"
	"github.com/cilium/statedb"
)

// agent is what a Cilium agent reads its peers with, and all that it has read:
// the code is Cilium's, only where it leads to is ours.
type agent struct {
	dir        string // a file for each peer
	mesh       *clustermesh.ClusterMesh
	complaints *complaints

	mu         sync.Mutex
	nodes      map[string]string // name -> pod ranges
	addresses  map[string]string // address -> pod, host, identity
	identities map[string]string // number -> labels
	services   map[string]string // namespace/name -> backends
}

// newAgent runs an agent until the test ends. mode says whether it reads services
// or endpoint slices: Cilium reads one of them.
func newAgent(t *testing.T, mode cmtypes.ServiceModeV2) *agent {
	t.Helper()
	a := &agent{
		dir: t.TempDir(), complaints: &complaints{},
		nodes: map[string]string{}, addresses: map[string]string{}, identities: map[string]string{}, services: map[string]string{},
	}
	log := a.complaints.logger()
	// Its own identities are in an etcd of its own, which has no part in this.
	identities := identitycache.NewCachingIdentityAllocator(log, a, identitycache.NewTestAllocatorConfig())
	<-identities.InitIdentityAllocator(nil, kvstore.NewInMemoryClient(statedb.New(), readerName))
	t.Cleanup(identities.Close)
	stores := store.NewFactory(log, store.MetricsProvider())
	lifecycle := &cell.DefaultLifecycle{}
	a.mesh = clustermesh.NewClusterMesh(lifecycle, clustermesh.Configuration{
		Config:                common.Config{ClusterMeshConfig: a.dir},
		ServiceModeV2Config:   cmtypes.ServiceModeV2Config{ServiceModeV2: mode},
		TimeoutConfig:         wait.TimeoutConfig{ClusterMeshSyncTimeout: patience},
		ClusterInfo:           cmtypes.ClusterInfo{ID: readerID, Name: readerName, MaxConnectedClusters: 255},
		RemoteClientFactory:   common.DefaultRemoteClientFactory(kvstore.Config{}),
		NodeObserver:          a,
		RemoteIdentityWatcher: identities,
		ServiceMerger:         a,
		IPCache:               a,
		ClusterIDsManager:     clustermesh.NewClusterMeshUsedIDs(readerID),
		ObserverFactories:     sliceObservers(t, log, stores, mode),
		Metrics:               clustermesh.NewMetrics(),
		CommonMetrics:         common.MetricsProvider(metrics.SubsystemClusterMesh)(),
		StoreFactory:          stores,
		FeatureMetrics:        noMetrics{},
		Logger:                log,
	})
	if err := lifecycle.Start(log, t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := lifecycle.Stop(log, ctx); err != nil {
			t.Error(err)
		}
	})
	return a
}

// sliceObservers gets the reader of endpoint slices out of the only place where
// Cilium makes one.
func sliceObservers(t *testing.T, log *slog.Logger, stores store.Factory, mode cmtypes.ServiceModeV2) (out []observer.Factory) {
	t.Helper()
	h := hive.New(
		endpointslice.Cell,
		cell.Provide(
			func() store.Factory { return stores },
			func() cmtypes.ServiceModeV2Config { return cmtypes.ServiceModeV2Config{ServiceModeV2: mode} },
			endpointslice.MetricsProvider("conformance"),
		),
		cell.Invoke(func(in struct {
			cell.In
			Factories []observer.Factory `group:"clustermesh-observers"`
		},
		) {
			out = in.Factories
		}),
	)
	if err := h.Populate(log); err != nil {
		t.Fatal(err)
	}
	return out
}

func (a *agent) NodeUpdated(n nodetypes.Node) {
	a.set(a.nodes, n.Name, fmt.Sprint(n.IPv4AllocCIDR, n.IPv6AllocCIDR))
}

func (a *agent) NodeDeleted(n nodetypes.Node) { a.unset(a.nodes, n.Name) }

// Upsert takes an address as Cilium's ipcache does.
func (a *agent) Upsert(ip string, host net.IP, _ uint8, pod *ipcache.K8sMetadata, id ipcache.Identity) (bool, error) {
	a.set(a.addresses, ip, fmt.Sprintf("%s/%s on %s is %d", pod.Namespace, pod.PodName, host, id.ID))
	return false, nil
}

func (a *agent) Delete(ip string, _ source.Source) bool {
	a.unset(a.addresses, ip)
	return false
}

// UpdateIdentities takes what policies are computed from.
func (a *agent) UpdateIdentities(added, deleted identity.IdentityMap) <-chan struct{} {
	for id, labels := range added {
		key := identitykey.GlobalIdentity{LabelArray: labels}
		a.set(a.identities, strconv.Itoa(int(id)), key.GetKey())
	}
	for id := range deleted {
		a.unset(a.identities, strconv.Itoa(int(id)))
	}
	done := make(chan struct{})
	close(done)
	return done
}

func (a *agent) GetNodeSuffix() string { return "agent" }

func (a *agent) MergeExternalServiceUpdate(s *servicestore.ClusterService) {
	var backends []netip.Addr
	for ip := range s.Backends {
		backends = append(backends, netip.MustParseAddr(ip))
	}
	a.set(a.services, s.NamespaceServiceName().String(), showAddresses(backends))
}

func (a *agent) MergeExternalServiceDelete(s *servicestore.ClusterService) {
	a.unset(a.services, s.NamespaceServiceName().String())
}

// noMetrics is where Cilium counts which of its features are in use.
type noMetrics struct{}

func (noMetrics) AddClusterMeshConfig(string, string) {}
func (noMetrics) DelClusterMeshConfig(string, string) {}

func (a *agent) set(in map[string]string, key, value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	in[key] = value
}

func (a *agent) unset(in map[string]string, key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(in, key)
}

// has returns a copy of one of the agent's tables.
func (a *agent) has(table map[string]string) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(table)
}

// status is that of one peer, nil when the agent has none by that name.
func (a *agent) status(peer string) *models.RemoteCluster {
	for _, s := range a.mesh.Status().Clusters {
		if s.Name == peer {
			return s
		}
	}
	return nil
}

// awaitReady waits until the agent says that it has all of a peer, and returns
// how long that took.
func (a *agent) awaitReady(t *testing.T, peer string) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, func() error {
		s := a.status(peer)
		if s == nil || !s.Ready {
			text, _ := s.MarshalBinary() // for people only
			return fmt.Errorf("%s is not ready: %s; complaints: %q", peer, text, a.complaints.seen())
		}
		return nil
	})
	return time.Since(began)
}
