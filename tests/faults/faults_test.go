package faults

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
)

// TestMesh goes through what may happen to processes, stores and paths of a mesh
// that serves. Each row begins with a mesh that is whole and leaves it so.
func TestMesh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "east", "west", "north")
	w.up()
	for _, row := range []struct {
		name string
		run  func(*world, *load)
	}{
		{"agent killed and restarted", agentKilled},
		{"API server killed", apiServerKilled},
		{"own etcd lost with its disk", etcdLost},
		{"peer's API server away", peerAway},
		{"partition of control planes", partition},
		{"peer publishes garbage", garbage},
		{"peer removed", peerRemoved},
	} {
		ok := t.Run(row.name, func(t *testing.T) {
			w := &world{t: t, east: w.east, west: w.west, north: w.north}
			w.ready(w.clusters()...)
			w.answers(w.east, w.clusters()...)
			l := w.load()
			row.run(w, l)
			l.unharmed()
		})
		if !ok {
			return // what follows begins with a mesh that is whole
		}
	}
}

// up starts all daemons; extra are flags of the API servers.
func (w *world) up(extra ...string) {
	w.t.Helper()
	for _, c := range w.clusters() {
		_, err := c.StartAPIServer(within(w.t), extra...)
		w.check(err)
		for _, n := range c.Nodes() {
			_, err := n.StartAgent(within(w.t))
			w.check(err)
		}
	}
	w.ready(w.clusters()...)
}

func agentKilled(w *world, l *load) {
	agent := w.east.Nodes()[0].Agent()
	w.check(agent.Kill())
	l.served(200)
	w.check(agent.Again(within(w.t)), w.east.AwaitReady(within(w.t)))
	w.check(agent.Restart(within(w.t)), w.east.AwaitReady(within(w.t)))
}

// The API server holds etcd, so nothing could keep a lease alive meanwhile; and
// what it leaves behind has none that could end.
func apiServerKilled(w *world, l *load) {
	w.leases()
	agent := w.east.Nodes()[0].Agent()
	generation := w.generations()
	w.check(w.east.APIServer().Kill())
	time.Sleep(*away) // the outage itself
	l.served(100)
	w.check(w.east.APIServer().Again(within(w.t)), w.east.AwaitReady(within(w.t)))
	w.answers(w.east, w.clusters()...)
	w.status(w.east, w.east.Nodes()[0].Name+" +current")
	w.leases()
	if after := w.generations(); after != generation {
		w.t.Errorf("nothing differed, and the maps were written:\n%s\nbefore:\n%s", after, generation)
	}
	if w.metric(agent, `causeway_feed_connected`) != 1 {
		w.t.Error("the agent has no feed")
	}
	if n := w.metric(w.east.APIServer(), `causeway_kvstore_written_keys_total\{writer="state"\}`); n > 8 {
		w.t.Errorf("%.0f keys were written again", n) // the config, and a marker a kind
	}
}

// leases checks that no key of east's etcd can end by itself but the heartbeat.
func (w *world) leases() {
	w.t.Helper()
	resp, err := w.etcd(w.east).Get(within(w.t), "", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	w.check(err)
	state := 0
	for _, kv := range resp.Kvs {
		if key := string(kv.Key); kv.Lease != 0 && key != "cilium/.heartbeat" && key != "causeway/election" {
			w.t.Errorf("%s goes when its lease ends", key)
		} else if strings.HasPrefix(key, "cilium/state/") {
			state++
		}
	}
	if state == 0 {
		w.t.Error("nothing is published")
	}
}

// generations are those of the services in east's maps: every write raises one.
func (w *world) generations() string {
	w.t.Helper()
	node := w.east.Nodes()[0]
	out, err := node.Run(within(w.t), filepath.Join(labtest.Binaries(w.t), "causeway"),
		"bpf", "dump", "--output", "json", "--bpffs-dir", node.BPFFS(), "--state-dir", node.StateDir())
	w.check(err)
	return fmt.Sprintf("%s", regexp.MustCompile(`"generation": \d+`).FindAll(out, -1))
}

func etcdLost(w *world, l *load) {
	before := w.identities()
	w.check(w.east.APIServer().Kill(), os.RemoveAll(filepath.Join(w.east.DataDir(), "etcd")))
	l.served(100)
	w.check(w.east.APIServer().Again(within(w.t)), w.east.AwaitReady(within(w.t)))
	w.answers(w.west, w.clusters()...)
	if after := w.identities(); !maps.Equal(after, before) || len(before) < 2 {
		w.t.Errorf("identities are %v, and were %v", after, before)
	}
}

// identities are the labels of each number, as peers of east read them.
func (w *world) identities() map[string]string {
	w.t.Helper()
	return w.keys(w.east, "cilium/state/identities/v1/id/")
}

func peerAway(w *world, l *load) {
	w.check(w.west.APIServer().Kill())
	w.status(w.east, "west +2 +disconnected", "^Not ready: .*peer west")
	l.served(200)
	w.answers(w.east, w.clusters()...) // its pods too
	w.check(w.west.APIServer().Again(within(w.t)))
	w.ready(w.west, w.east)
}

// The port of the gateways is dropped between the clusters, and nothing else.
func partition(w *world, l *load) {
	space := w.west.Nodes()[0].Space()
	cut := netfilter.Table{Family: netfilter.FamilyIPv4, Name: "partition", Chains: []netfilter.Chain{
		{
			Name: "in", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
			Rules: []netfilter.Rule{
				netfilter.Join(netfilter.In("eth0"), tcpPort(0), netfilter.Drop()),
				netfilter.Join(netfilter.In("eth0"), tcpPort(2), netfilter.Drop()),
			},
		},
		{
			Name: "out", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
			Rules: []netfilter.Rule{
				netfilter.Join(netfilter.Out("eth0"), tcpPort(0), netfilter.Drop()),
				netfilter.Join(netfilter.Out("eth0"), tcpPort(2), netfilter.Drop()),
			},
		},
	}}
	w.check(netfilter.Write(space, cut))
	w.status(w.east, "west +2 +disconnected")
	w.status(w.west, "east +1 +disconnected", "north +3 +disconnected")
	name := w.service(w.west, 101) // of which nobody hears
	w.answers(w.east, w.clusters()...)
	w.answers(w.west, w.clusters()...)
	l.served(100)
	w.check(netfilter.Write(space, netfilter.Table{Family: cut.Family, Name: cut.Name}))
	w.ready(w.clusters()...)
	w.knows(w.east, name, true)
	w.check(w.west.RemoveManifest(name + ".yaml"))
	w.knows(w.east, name, false)
}

// tcpPort matches the gateways' port at an offset of the TCP header: 0 is the
// source's, 2 the target's.
func tcpPort(offset uint32) netfilter.Rule {
	return netfilter.Rule{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{6}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(8474)},
	}
}

// Somebody writes to west's etcd. East refuses what does not parse and what is
// not west's to say, counts it, and keeps the last good values, also when keys
// that were good are spoilt; west puts its own right.
func garbage(w *world, l *load) {
	const refused = `causeway_peer_refused_keys_total\{[^}]*west[^}]*\}`
	east := w.east.APIServer()
	before := w.metric(east, refused)
	etcd := w.etcd(w.west)
	good := w.keys(w.west, "cilium/state/")
	for key := range good {
		_, err := etcd.Put(within(w.t), key, "\x00\xff{garbage")
		w.check(err)
	}
	for key, value := range map[string]string{
		"cilium/state/services/v1/west/shop/other": good["cilium/state/services/v1/west/shop/web"],
		"cilium/state/services/v1/west/shop/a/b/":  "{}",
		"cilium/state/ip/v1/default/10.1.0.11":     good["cilium/state/ip/v1/default/10.2.0.11"],
		"cilium/state/identities/v1/id/1":          "k8s:app=web;",
	} {
		_, err := etcd.Put(within(w.t), key, value)
		w.check(err)
	}
	l.served(100)
	w.eventually("what is refused", func(context.Context) error {
		if n := w.metric(east, refused) - before; n < float64(len(good)) {
			return fmt.Errorf("%.0f refusals are counted, want %d and more", n, len(good))
		}
		return nil
	})
	w.eventually("west's own keys", func(context.Context) error {
		if now := w.keys(w.west, "cilium/state/"); !maps.Equal(now, good) {
			return fmt.Errorf("are %v, want %v", now, good)
		}
		return nil
	})
	w.answers(w.east, w.clusters()...)
}

func peerRemoved(w *world, l *load) {
	const kept = `causeway_feed_kept_resources\{kind="identity"\}`
	agent := w.east.Nodes()[0].Agent()
	before := w.metric(agent, kept)
	w.check(w.east.Disconnect(w.north))
	w.answers(w.east, w.east, w.west)
	w.eventually("identities of the peer", func(context.Context) error {
		if now := w.metric(agent, kept); now >= before {
			return fmt.Errorf("%.0f of %.0f are kept", now, before)
		}
		return nil
	})
	w.eventually("the cache, which is written behind", func(context.Context) error {
		for key := range w.keys(w.east, "cilium/") {
			if strings.Contains(key, "/north") {
				return fmt.Errorf("still has %s", key)
			}
		}
		return nil
	})
	w.ready(w.east)
	l.served(100)
	w.check(w.east.Connect(w.north))
	w.answers(w.east, w.clusters()...)
}
