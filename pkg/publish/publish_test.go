package publish

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/source"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

var east = cluster.Config{
	Name: "east", ID: 1, Size: cluster.Size255, SyncedCanaries: true, ExportMode: cluster.ExportServicesAndSlices,
}

// world is a publisher with all that it stands between.
type world struct {
	t         *testing.T
	etcd      *kvstore.Client
	manifests string
	state     string

	mu    sync.Mutex
	local merge.Update
	told  []*node.Node // every value of a node that was handed over
	stop  func()

	change func(*Config) // before start
}

func newWorld(t *testing.T, dump string) *world {
	w := &world{t: t, etcd: openEtcd(t), manifests: t.TempDir(), state: t.TempDir()}
	w.edit(dump, func(text string) string { return text })
	return w
}

// edit writes the dump, changed by fn, into the directory of manifests.
func (w *world) edit(dump string, fn func(string) string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join("../../tests/testdata/dumps", dump))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.manifests, dump), []byte(fn(string(text))), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// start runs a source and a publisher until the test, or w.stop, ends them.
func (w *world) start() *Publisher {
	w.t.Helper()
	filter, err := identity.NewFilter(identity.DefaultExcluded())
	if err != nil {
		w.t.Fatal(err)
	}
	w.local = newPublication().update
	w.local.Addresses = map[netip.Prefix]*endpoint.Address{}
	cfg := Config{Cluster: east, Etcd: w.etcd, Filter: filter, Logger: quiet(), Local: w.take}
	if w.change != nil {
		w.change(&cfg)
	}
	p := New(cfg)
	m := source.NewManifests(source.ManifestsConfig{Dir: w.manifests, StateDir: w.state, Sink: p, Logger: quiet()})
	stopPublisher := run(w.t, p.Run)
	stopSource := run(w.t, m.Run)
	w.stop = func() {
		stopSource()
		stopPublisher()
	}
	return p
}

func (w *world) take(u merge.Update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, v := range u.Services {
		w.local.Services[k] = v
	}
	for k, v := range u.Slices {
		w.local.Slices[k] = v
	}
	for _, n := range u.Nodes {
		w.told = append(w.told, n)
	}
	for k, v := range u.Addresses {
		w.local.Addresses[k] = v
	}
}

// keys returns what is in etcd under a prefix.
func (w *world) keys(prefix string) map[string]string {
	w.t.Helper()
	out := map[string]string{}
	err := w.etcd.List(w.t.Context(), kvstore.Prefix(prefix), func(i kvstore.Item) error {
		out[i.Key] = string(i.Value)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// published waits until all markers are there.
func (w *world) published() {
	w.t.Helper()
	eventually(w.t, func() error {
		if n := len(w.keys("cilium/synced/east/")); n != len(markedKinds()) {
			return fmt.Errorf("%d markers, want %d", n, len(markedKinds()))
		}
		return nil
	})
}

func names(m map[string]string, prefix string) []string {
	var out []string
	for key := range m {
		out = append(out, strings.TrimPrefix(key, prefix))
	}
	slices.Sort(out)
	return out
}

func TestPublishDump(t *testing.T) {
	w := newWorld(t, "east.yaml")
	p := w.start()
	w.published()
	<-p.Listed()
	layout := wire.Layout{Cluster: "east"}
	for _, tc := range []struct {
		kind wire.Kind
		want []string
	}{
		{wire.Nodes, []string{"c1-n1", "c1-n2"}},
		// Not those of failed pods, of the host network, or of the namespace that
		// is kept at home; one that is not ready has its address all the same.
		{wire.Addresses, []string{"10.201.0.2", "10.201.0.3", "10.201.0.6", "10.201.1.2", "10.201.1.3", "10.201.1.4"}},
		// data/dns is global but not shared.
		{wire.Services, []string{"data/db", "shop/web"}},
		{wire.Slices, []string{"data/db-6pg59", "shop/web-5lhgc", "shop/web-8tqp5"}},
	} {
		prefix := layout.Prefix(tc.kind)
		if diff := cmp.Diff(tc.want, names(w.keys(prefix), prefix)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.kind, diff)
		}
	}
	identities := w.keys(layout.Prefix(wire.Identities))
	labels := map[string]bool{}
	for _, text := range identities {
		labels[text] = true
	}
	const web = "k8s:app=web;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;" +
		"k8s:io.cilium.k8s.namespace.labels.team=retail;k8s:io.cilium.k8s.policy.cluster=east;" +
		"k8s:io.cilium.k8s.policy.serviceaccount=web;k8s:io.kubernetes.pod.namespace=shop;k8s:tier=front;k8s:version=v1;"
	if len(identities) != 3 || !labels[web] {
		t.Errorf("identities of db, web and not-ready are wanted, %q among them; got %q", web, identities)
	}
	if _, ok := w.keys(wire.HeartbeatKey)[wire.HeartbeatKey]; !ok {
		t.Error("there is no heartbeat")
	}
	config, err := wire.DecodeConfig("east", []byte(w.keys(wire.ConfigKey("east"))[wire.ConfigKey("east")]))
	if err != nil || config.ID != 1 || !config.SyncedCanaries {
		t.Errorf("config %+v, error %v", config, err)
	}
	if problems := p.Problems(); len(problems) > 0 {
		t.Errorf("problems: %q", problems)
	}
}

func TestPublishValues(t *testing.T) {
	w := newWorld(t, "east.yaml")
	w.start()
	w.published()
	layout := wire.Layout{Cluster: "east"}
	key := layout.ServiceKey(service.Name{Namespace: "shop", Name: "web"})
	got, err := layout.DecodeService(key, []byte(w.keys(key)[key]))
	if err != nil {
		t.Fatal(err)
	}
	var ips []string
	for _, b := range got.Backends {
		ips = append(ips, b.IP.String())
		if len(b.Ports) != 2 {
			t.Errorf("backend %s has ports %v, want http and alt", b.IP, b.Ports)
		}
	}
	if diff := cmp.Diff([]string{"10.201.0.2", "10.201.0.3", "10.201.1.3"}, ips); diff != "" {
		t.Errorf("backends of shop/web (-want +got):\n%s", diff)
	}
	if !got.Global || !got.Shared || len(got.Frontends) != 1 || got.Frontends[0].IP.String() != "10.97.95.154" {
		t.Errorf("shop/web: %+v", got)
	}
	key = layout.AddressKey(netip.MustParsePrefix("10.201.1.2/32"))
	address, err := layout.DecodeAddress(key, []byte(w.keys(key)[key]))
	if err != nil {
		t.Fatal(err)
	}
	want := &endpoint.Address{
		Cluster: address.Cluster, Prefix: netip.MustParsePrefix("10.201.1.2/32"), HostIP: netip.MustParseAddr("10.77.0.12"),
		Identity: address.Identity, Namespace: "data", Pod: "db-0", ServiceAccount: "default",
		NamedPorts: []endpoint.NamedPort{{Name: "pg", Port: 8080, Protocol: "TCP"}},
	}
	if diff := cmp.Diff(want, address, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("data/db-0 (-want +got):\n%s", diff)
	}
	if address.Identity.Cluster(cluster.Size255) != 1 {
		t.Errorf("identity %d is not of cluster 1", address.Identity)
	}
}

// What changed while nobody published is put right by the next start, and what
// did not is not written again.
func TestPublishPrunesOnStart(t *testing.T) {
	w := newWorld(t, "east.yaml")
	w.start()
	w.published()
	before := w.keys("cilium/state/")
	w.stop()
	w.edit("east.yaml", func(text string) string {
		return strings.Replace(text, `service.cilium.io/global: "true"`, `service.cilium.io/global: "false"`, 1)
	})
	if err := w.etcd.Put(t.Context(), "cilium/state/nodes/v1/east/gone", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	w.start()
	eventually(t, func() error {
		after := w.keys("cilium/state/")
		if _, ok := after["cilium/state/nodes/v1/east/gone"]; ok {
			return fmt.Errorf("a node that is not in the source is still published")
		}
		if _, ok := after["cilium/state/services/v1/east/data/db"]; ok {
			return fmt.Errorf("a service that is not global any more is still published")
		}
		return nil
	})
	after := w.keys("cilium/state/")
	for key, value := range after {
		if before[key] != value {
			t.Errorf("%s changed over a restart", key)
		}
	}
	if lost := len(before) - len(after); lost != 2 { // data/db and its slice
		t.Errorf("%d keys went, want 2", lost)
	}
}

func TestPublishFollowsTheSource(t *testing.T) {
	w := newWorld(t, "east.yaml")
	w.start()
	w.published()
	web := service.Name{Namespace: "shop", Name: "web"}
	slice := merge.SliceName{Namespace: "shop", Name: "web-8tqp5"}
	w.edit("east.yaml", func(text string) string {
		return strings.ReplaceAll(text, `service.cilium.io/global: "true"`, "service.cilium.io/global: \"true\"\n      service.cilium.io/shared: \"false\"")
	})
	layout := wire.Layout{Cluster: "east"}
	eventually(t, func() error {
		if left := w.keys(layout.Prefix(wire.Slices)); len(left) > 0 {
			return fmt.Errorf("%d slices are still published", len(left))
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.local.Services[web]; s == nil || !s.Global || s.Shared {
		t.Errorf("the own cluster sees %+v", s)
	}
	if w.local.Slices[slice] == nil {
		t.Error("the own cluster lost the backends of a service that is no longer shared")
	}
}

// An address whose identity can not be had yet holds up no service.
func TestPublishServicesWhileEtcdIsAway(t *testing.T) {
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: t.TempDir(), Logger: quiet()})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	etcd, err := server.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, etcd: etcd, manifests: t.TempDir(), state: t.TempDir()}
	w.edit("east.yaml", func(text string) string { return text })
	p := w.start()
	<-p.Listed()
	eventually(t, func() error {
		if p.Err() == nil {
			return errors.New("etcd is away, and peers are said to be told")
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.local.Services) != 7 || len(w.local.Addresses) != 0 {
		t.Errorf("%d services, %d addresses; want 7 and none", len(w.local.Services), len(w.local.Addresses))
	}
}
