package publish

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/source"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func meshRanges(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestValidateMeshRanges(t *testing.T) {
	for _, good := range [][]netip.Prefix{nil, meshRanges("10.200.0.0/30"), meshRanges("10.200.0.0/16", "fd00:200::/64"), meshRanges("fd00:200::/126")} {
		if err := ValidateMeshRanges(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range [][]netip.Prefix{meshRanges("10.200.0.0/31"), meshRanges("10.200.0.1/16"), meshRanges("0.0.0.0/0"), meshRanges("10.1.0.0/16", "10.2.0.0/16"), meshRanges("fd00::/128")} {
		if err := ValidateMeshRanges(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

// TestMeshCandidates: every address but the first and the last comes once, and the
// first one depends on the node alone.
func TestMeshCandidates(t *testing.T) {
	for _, text := range []string{"10.200.0.0/24", "fd00:200::/120"} {
		p := netip.MustParsePrefix(text)
		space := meshSpace([]netip.Prefix{p})
		got := slices.Collect(space.candidates(meshHolder{"n1", p.Addr().Is6()}))
		if again := slices.Collect(space.candidates(meshHolder{"n1", p.Addr().Is6()})); !slices.Equal(got, again) {
			t.Errorf("%s: another order the second time", text)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		got = slices.Compact(got)
		if len(got) != 254 || space.size != 254 || !p.Contains(got[0]) || !p.Contains(got[253]) || got[0] != p.Addr().Next() {
			t.Errorf("%s: %d addresses of %d, from %s to %s", text, len(got), space.size, got[0], got[len(got)-1])
		}
	}
}

// meshWorld gives nodes addresses over a store of its own.
type meshWorld struct {
	t     *testing.T
	index *index
	mesh  *mesh
	now   time.Time
}

func newMeshWorld(t *testing.T, etcd *kvstore.Client, file string, ranges ...string) *meshWorld {
	w := &meshWorld{t: t, index: newIndex(), now: time.Unix(1_800_000_000, 0)}
	w.mesh = newMesh(Config{Cluster: east, Etcd: etcd, Logger: quiet(), MeshRanges: meshRanges(ranges...), MeshFile: file}, func() {})
	w.mesh.allocator.now = func() time.Time { return w.now }
	t.Cleanup(w.mesh.end)
	return w
}

// nodes makes these and no others the cluster's, and returns their addresses.
func (w *meshWorld) nodes(names ...string) map[string][]netip.Addr {
	w.t.Helper()
	for name := range w.index.nodes {
		if !slices.Contains(names, name) {
			w.index.apply(source.Change{Object: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, Deleted: true})
		}
	}
	for _, name := range names {
		w.index.apply(source.Change{Object: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}})
	}
	if err := w.mesh.sync(context.Background(), w.mesh.take(w.index), true); err != nil {
		w.t.Fatal(err)
	}
	w.index.meshNodes(w.mesh.known())
	return w.index.mesh
}

// sweep does so twice, the second time when etcd has heard of the first. What was
// freed is in etcd before, as it is after a day.
func (w *meshWorld) sweep() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if err := w.mesh.allocator.writer.Synced(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.mesh.sweep()
	eventually(w.t, func() error {
		n := 0
		err := w.mesh.allocator.etcd.List(w.t.Context(), kvstore.Prefix(MeshAddressPrefix), func(kvstore.Item) error { n++; return nil })
		if err == nil && n != len(w.mesh.allocator.claims) {
			err = fmt.Errorf("etcd has %d of %d addresses", n, len(w.mesh.allocator.claims))
		}
		return err
	})
	w.mesh.sweep()
}

func TestMeshAddresses(t *testing.T) {
	etcd := openEtcd(t)
	file := filepath.Join(t.TempDir(), "mesh-addresses")
	w := newMeshWorld(t, etcd, file, "10.200.0.0/24", "fd00:200::/64")
	got := w.nodes("n1", "n2", "n3")
	seen := map[netip.Addr]bool{}
	for _, name := range []string{"n1", "n2", "n3"} {
		addrs := got[name]
		if len(addrs) != 2 || !addrs[0].Is4() || !addrs[1].Is6() || seen[addrs[0]] || seen[addrs[1]] {
			t.Errorf("%s: %v", name, addrs)
		}
		for _, a := range addrs {
			seen[a] = true
		}
	}
	before := fmt.Sprint(got)
	w.mesh.save()

	t.Run("restart", func(t *testing.T) {
		if after := fmt.Sprint(newMeshWorld(t, etcd, "", "10.200.0.0/24", "fd00:200::/64").nodes("n3", "n2", "n1")); after != before {
			t.Errorf("%s became %s", before, after)
		}
	})
	t.Run("etcd lost", func(t *testing.T) {
		other := newMeshWorld(t, openEtcd(t), file, "10.200.0.0/24", "fd00:200::/64")
		if after := fmt.Sprint(other.nodes("n1", "n2", "n3")); after != before {
			t.Errorf("%s became %s", before, after)
		}
	})
	t.Run("larger range", func(t *testing.T) {
		if after := fmt.Sprint(newMeshWorld(t, etcd, file, "10.200.0.0/16", "fd00:200::/48").nodes("n1", "n2", "n3")); after != before {
			t.Errorf("%s became %s", before, after)
		}
	})
}

// TestMeshAddressesRest: two addresses for three nodes. The third one gets none, the
// others keep theirs; an address that is given back is used a day later.
func TestMeshAddressesRest(t *testing.T) {
	w := newMeshWorld(t, openEtcd(t), "", "10.200.0.0/30")
	before := cloned(w.nodes("n1", "n2"))
	got := w.nodes("n1", "n2", "n3")
	if len(got["n3"]) != 0 || !slices.Equal(got["n1"], before["n1"]) || !slices.Equal(got["n2"], before["n2"]) {
		t.Errorf("a full range: %v, before %v", got, before)
	}
	if p := strings.Join(w.mesh.problems(), " "); !strings.Contains(p, "--mesh-cidr") {
		t.Errorf("problems: %q", p)
	}
	again := func() []netip.Addr {
		w.sweep()
		return w.nodes("n1", "n3")["n3"]
	}
	w.nodes("n1", "n3")
	w.now = w.now.Add(rest - time.Minute)
	if got := again(); len(got) != 0 {
		t.Errorf("%v is used before it has rested", got)
	}
	w.now = w.now.Add(2 * time.Minute)
	if got := again(); !slices.Equal(got, before["n2"]) {
		t.Errorf("after its rest: %v, want %v", got, before["n2"])
	}
	if p := w.mesh.problems(); len(p) != 0 {
		t.Errorf("problems: %v", p)
	}
}

func cloned(m map[string][]netip.Addr) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for k, v := range m {
		out[k] = slices.Clone(v)
	}
	return out
}

// TestMeshAddressesOfGoneNodes: what an earlier run gave to nodes that are not there
// any more rests from then on.
func TestMeshAddressesOfGoneNodes(t *testing.T) {
	etcd := openEtcd(t)
	earlier := newMeshWorld(t, etcd, "", "10.200.0.0/30")
	earlier.nodes("n1", "n2")
	earlier.mesh.end() // or it would write again what the later one deletes
	w := newMeshWorld(t, etcd, "", "10.200.0.0/30")
	w.nodes("n2")
	w.now = w.now.Add(rest + time.Minute)
	w.sweep()
	if got := w.nodes("n2", "n3"); len(got["n3"]) != 1 {
		t.Errorf("n3 got %v", got["n3"])
	}
}

func TestMeshConflict(t *testing.T) {
	m := newMeshWorld(t, openEtcd(t), "", "10.200.0.0/16").mesh
	good := &node.Node{PodCIDRs: meshRanges("10.1.0.0/24"), Addresses: []node.Address{{Type: node.InternalIP, IP: netip.MustParseAddr("192.0.2.1")}}}
	if err := m.conflict(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []*node.Node{
		{PodCIDRs: meshRanges("10.200.7.0/24")},
		{PodCIDRs: meshRanges("10.0.0.0/8")},
		{Addresses: []node.Address{{Type: node.InternalIP, IP: netip.MustParseAddr("10.200.0.9")}}},
	} {
		if err := m.conflict(bad); !errors.Is(err, errMeshOverlap) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestPublishesMeshAddresses: peers, and our own nodes, read them as the protocol has
// them, and never read a node without before one with.
func TestPublishesMeshAddresses(t *testing.T) {
	w := newWorld(t, "east.yaml")
	w.change = func(c *Config) { c.MeshRanges = meshRanges("10.200.0.0/16") }
	w.start()
	w.published()
	nodes := w.keys(wire.Layout{Cluster: "east"}.Prefix(wire.Nodes))
	if len(nodes) == 0 {
		t.Fatal("no nodes")
	}
	for key, value := range nodes {
		if !strings.Contains(value, `"Type":"CiliumInternalIP","IP":"10.200.`) {
			t.Errorf("%s: %s", key, value)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.told) != len(nodes) {
		t.Errorf("told of %d nodes, published %d", len(w.told), len(nodes))
	}
	for _, n := range w.told {
		if !n.IP(node.CiliumInternalIP, false).IsValid() {
			t.Errorf("%s has no mesh address: %v", n.Name, n.Addresses)
		}
	}
}
