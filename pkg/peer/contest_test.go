package peer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// one is the first identity of a cluster.
func one(id cluster.ID) identity.Number {
	first, _ := identity.Range(id, cluster.Size255)
	return first
}

// claims publishes that an address is a pod's, of the cluster's first identity.
func (r *remote) claims(ip, pod string) {
	r.t.Helper()
	n := one(r.config.ID)
	labels := identity.Labels(fmt.Sprintf("k8s:app=%s;k8s:io.cilium.k8s.policy.cluster=%s;", r.name, r.name))
	value, err := wire.EncodeIdentity(&identity.Identity{Number: n, Labels: labels})
	r.put(r.layout().IdentityKey(n), value, err)
	prefix := netip.PrefixFrom(netip.MustParseAddr(ip), 32)
	value, err = wire.EncodeAddress(&endpoint.Address{
		Cluster: r.name, Prefix: prefix, HostIP: r.host(), Identity: n, Namespace: "shop", Pod: pod,
	})
	r.put(r.layout().AddressKey(prefix), value, err)
}

func (r *remote) withdraw(ip string) {
	r.t.Helper()
	r.delete(r.layout().AddressKey(netip.PrefixFrom(netip.MustParseAddr(ip), 32)))
}

// owner is whose an address is, "" for nobody's.
func (l *local) owner(ip string) (out string) {
	l.engine.Read(func(s *merge.State) {
		if o := s.Directory().Addresses[netip.PrefixFrom(netip.MustParseAddr(ip), 32)]; o != nil {
			out = o.Cluster + "/" + o.Pod
		}
	})
	return out
}

func (l *local) awaitOwner(ip, want string) {
	l.t.Helper()
	eventually(l.t, func() error {
		if got := l.owner(ip); got != want {
			return fmt.Errorf("%s is %q's, want %q; sessions: %+v", ip, got, want, l.Status())
		}
		return nil
	})
}

// awaitConflicts waits until a peer is shown with as many addresses that another has.
func (l *local) awaitConflicts(peer string, want int, text string) {
	l.t.Helper()
	eventually(l.t, func() error {
		for _, s := range l.Status() {
			if s.Name == peer && s.Refused["address_conflict"] == want && strings.Contains(s.LastRefused, text) {
				return nil
			}
		}
		return fmt.Errorf("%s has not %d conflicts (%s): %+v", peer, want, text, l.Status())
	})
}

// cachedPod is the pod that our own etcd has for an address of a peer.
func (l *local) cachedPod(peer, ip string) string {
	l.t.Helper()
	c := wire.Layout{Cluster: peer, Cached: true}
	key := c.AddressKey(netip.PrefixFrom(netip.MustParseAddr(ip), 32))
	value, found, err := l.etcd.Get(l.t.Context(), key)
	if err != nil {
		l.t.Fatal(err)
	}
	if !found {
		return ""
	}
	a, err := c.DecodeAddress(key, value)
	if err != nil {
		l.t.Fatal(err)
	}
	return a.Pod
}

func (l *local) awaitCached(peer, ip, pod string) {
	l.t.Helper()
	eventually(l.t, func() error {
		if got := l.cachedPod(peer, ip); got != pod {
			return fmt.Errorf("cached of %s for %s is %q, want %q", peer, ip, got, pod)
		}
		return nil
	})
}

// own says what our own cluster publishes of an address.
func (l *local) own(ip, pod string) {
	prefix := netip.PrefixFrom(netip.MustParseAddr(ip), 32)
	u := merge.Update{Addresses: map[netip.Prefix]*endpoint.Address{prefix: nil}}
	if pod != "" {
		u.Addresses[prefix] = &endpoint.Address{Prefix: prefix, Pod: pod, Identity: identity.Health}
	}
	l.engine.Apply("east", u)
}

// Two peers claim one address: the first has it, also after a restart in which
// the other is asked first; the other takes over when it goes.
func TestTwoPeersClaimOneAddress(t *testing.T) {
	t.Parallel()
	const ip = "10.9.0.1"
	l, south, west := newLocal(t), newRemote(t, "south", 3), newRemote(t, "west", 2)
	l.connect(west)
	west.claims(ip, "w")
	l.awaitOwner(ip, "west/w")
	l.awaitCached("west", ip, "w")
	south.claims(ip, "s")
	south.claims("10.9.0.2", "other")
	l.connect(south)
	l.awaitConflicts("south", 1, "address_conflict: cilium/cache/ip/v1/south/10.9.0.1: ")
	l.awaitConflicts("south", 1, "10.9.0.1/32 is west's")
	l.awaitOwner("10.9.0.2", "south/other")
	l.awaitOwner(ip, "west/w")
	l.awaitCache("south")
	if got := l.cachedPod("south", ip); got != "" {
		t.Errorf("what is refused is cached: %q", got)
	}

	// A restart while the holder is away, and the other is there.
	l.stop()
	west.stop()
	l.start()
	<-l.Seeded()
	l.awaitState("south", Synced, "")
	l.awaitOwner(ip, "west/w")
	l.awaitConflicts("south", 1, "west's")
	south.claims(ip, "s2") // stays in its place
	west.start()
	l.awaitState("west", Synced, "")
	l.awaitOwner(ip, "west/w")

	west.withdraw(ip)
	l.awaitOwner(ip, "south/s2")
	l.awaitCached("south", ip, "s2")
	l.awaitCached("west", ip, "")
	l.awaitConflicts("south", 0, "")

	// The first is the second now, until the other is removed.
	west.claims(ip, "w2")
	l.awaitConflicts("west", 1, "south's")
	l.awaitOwner(ip, "south/s2")
	l.remove("south")
	l.awaitOwner(ip, "west/w2")
	l.awaitCached("west", ip, "w2")
	l.awaitConflicts("west", 0, "")
}

// Our own address is ours, whoever was first, and the peer has it again when ours
// has gone.
func TestPeerClaimsOurAddress(t *testing.T) {
	t.Parallel()
	const ip = "10.9.0.1"
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	west.claims(ip, "w")
	l.awaitOwner(ip, "west/w")
	l.own(ip, "e")
	if got := l.owner(ip); got != "east/e" {
		t.Errorf("our address is %q", got)
	}
	l.awaitConflicts("west", 1, "east's")
	west.claims(ip, "w2")
	west.claims("10.9.0.2", "after")
	l.awaitOwner("10.9.0.2", "west/after")
	l.own(ip, "")
	if got := l.owner(ip); got != "west/w2" {
		t.Errorf("an address that was ours is %q", got)
	}
	l.awaitCached("west", ip, "w2")
	l.awaitConflicts("west", 0, "")

	l.own("10.9.0.3", "e")
	west.claims("10.9.0.3", "w3")
	l.awaitConflicts("west", 1, "east's")
	west.withdraw("10.9.0.3")
	l.awaitConflicts("west", 0, "")
}

// A peer with another id is drained first: nothing of the old one is in use or
// cached as whole when the first of the new one comes, and its old id is free.
func TestChangedID(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	west.claims("10.9.0.1", "w")
	l.awaitOwner("10.9.0.1", "west/w")
	l.awaitCache("west")

	// Its markers are gone while it changes: nothing is read yet.
	west.delete(west.layout().Marker(wire.Nodes))
	west.config.ID = 4
	west.configure()
	l.awaitNodes("west")
	l.awaitState("west", Waiting, "nodes")
	eventually(t, func() error {
		if left := l.cached("west"); len(left) > 0 {
			return fmt.Errorf("cached of west: %v", left)
		}
		return nil
	})
	south := newRemote(t, "south", 2)
	l.connect(south)
	l.awaitState("south", Synced, "")

	west.delete(west.layout().IdentityKey(one(2)))
	west.claims("10.9.0.1", "w4")
	west.put(west.layout().Marker(wire.Nodes), []byte("now"), nil)
	l.awaitState("west", Synced, "")
	l.awaitOwner("10.9.0.1", "west/w4")
	l.awaitCache("west")
	l.engine.Read(func(s *merge.State) {
		d := s.Directory()
		if d.Identities[one(2)] != nil || d.Identities[one(4)] == nil {
			t.Errorf("identities: %v", d.Identities)
		}
	})
	value, _, err := l.etcd.Get(t.Context(), wire.ConfigKey("west"))
	if config, wrong := wire.DecodeConfig("west", value); err != nil || wrong != nil || config.ID != 4 {
		t.Errorf("cached config %+v: %v, %v", config, err, wrong)
	}
}

// An id that changed while this process was away drains what was cached; two
// peers that swap theirs do not wait for each other.
func TestChangedIDOverARestart(t *testing.T) {
	t.Parallel()
	l, west, south := newLocal(t), newRemote(t, "west", 2), newRemote(t, "south", 3)
	for _, r := range []*remote{west, south} {
		l.connect(r)
		r.claims("10.9.0."+fmt.Sprint(r.config.ID), r.name)
		l.awaitOwner("10.9.0."+fmt.Sprint(r.config.ID), r.name+"/"+r.name)
		l.awaitCache(r.name)
	}
	l.stop()
	west.config.ID, south.config.ID = 3, 2
	for _, r := range []*remote{west, south} {
		r.delete(r.layout().IdentityKey(one(5 - r.config.ID)))
		r.claims("10.9.0."+fmt.Sprint(5-r.config.ID), r.name+"-new")
		r.configure()
	}
	l.start()
	l.awaitOwner("10.9.0.2", "west/west-new")
	l.awaitOwner("10.9.0.3", "south/south-new")
	for _, r := range []*remote{west, south} {
		l.awaitState(r.name, Synced, "")
		l.awaitCache(r.name)
		c := wire.Layout{Cluster: r.name, Cached: true}
		got := []string{}
		err := l.etcd.List(t.Context(), kvstore.Prefix(c.Prefix(wire.Identities)), func(i kvstore.Item) error {
			got = append(got, i.Key)
			return nil
		})
		if want := []string{c.IdentityKey(one(r.config.ID))}; err != nil || !slices.Equal(got, want) {
			t.Errorf("cached identities of %s: %v, want %v; error %v", r.name, got, want, err)
		}
	}
}
