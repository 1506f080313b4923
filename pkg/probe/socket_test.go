package probe

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

const cable = "mesh0"

// inside is the network of a namespace: its sockets are opened there.
type inside struct {
	Sockets
	space *netspace.Space
}

func (i inside) Ask(ctx context.Context, from, to netip.Addr) (conn Conn, err error) {
	err = i.space.Do(func() (err error) {
		conn, err = i.Sockets.Ask(ctx, from, to)
		return err
	})
	return conn, err
}

func (i inside) Mark(ctx context.Context, from, to netip.Addr, data []byte) error {
	return i.space.Do(func() error { return i.Sockets.Mark(ctx, from, to, data) })
}

func (i inside) MTU() (mtu int, err error) {
	err = i.space.Do(func() (err error) {
		mtu, err = i.Sockets.MTU()
		return err
	})
	return mtu, err
}

func newSpace(t *testing.T, name string) *netspace.Space {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	s, err := netspace.New(path)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close(), netspace.Remove(path)) })
	return s
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// cabled are two namespaces with a cable between them, of both families, in the
// second of which somebody answers.
func cabled(t *testing.T) (east inside, n *Neighbours) {
	t.Helper()
	labtest.RequireRoot(t)
	a, b := newSpace(t, "a"), newSpace(t, "b")
	ours := []netip.Addr{ourMesh, netip.MustParseAddr("fd00:200:1::1")}
	theirs := []netip.Addr{theirMesh, netip.MustParseAddr("fd00:200:2::1")}
	pods := []netip.Addr{ourPod, netip.MustParseAddr("fd00:1::10")}
	must(t, a.AddPair(cable, b, cable), a.SetUp(cable), b.SetUp(cable))
	for i := range ours {
		must(t, a.AddAddress(cable, netip.PrefixFrom(ours[i], ours[i].BitLen())), b.AddAddress(cable, netip.PrefixFrom(theirs[i], theirs[i].BitLen())))
		must(t, a.AddRoute(netspace.Route{To: netip.PrefixFrom(theirs[i], theirs[i].BitLen()), Device: cable}))
		for _, back := range []netip.Addr{ours[i], pods[i]} {
			must(t, b.AddRoute(netspace.Route{To: netip.PrefixFrom(back, back.BitLen()), Device: cable}))
		}
	}
	west := newProber(Sockets{Device: cable})
	west.Know(&Neighbours{Mesh: nil, Peers: []Peer{{Cluster: "east", Mode: route.VXLAN, Nodes: []Node{{Name: "e1", Mesh: ours}}}}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(theirs))
	for _, at := range theirs {
		must(t, b.Do(func() error {
			conn, err := Sockets{Device: cable}.Listen(ctx, at)
			if err == nil {
				go func() { done <- west.serve(ctx, conn) }()
			}
			return err
		}))
	}
	t.Cleanup(func() {
		cancel()
		for range theirs {
			<-done
		}
	})
	n = &Neighbours{Cluster: "east", Node: "e1", Mesh: ours, Pods: pods, Peers: []Peer{{Cluster: "west", Mode: route.VXLAN, Nodes: []Node{{Name: "w1", Mesh: theirs}}}}}
	return inside{Sockets{Device: cable}, a}, n
}

func TestAskByRealSockets(t *testing.T) {
	east, n := cabled(t)
	for _, target := range sample(n) {
		// IPv6 may still be looking whether somebody else has its address.
		var r round
		for end := time.Now().Add(time.Minute); time.Now().Before(end) && (r.answered == 0 || !r.marked.IsValid()); {
			r = ask(t.Context(), east, target, n, 0)
		}
		pod := ofFamily(n.Pods, target.to)
		if r.failed != nil || r.answered != 1 || r.rtt <= 0 || r.seen != target.from || r.pod != pod || r.marked != pod || r.device != 1500 || r.passes != 1500 {
			t.Errorf("to %s: %+v", target.to, r)
		}
	}
}

// Where nobody answers, the kernel says so, and where there is no way, too.
func TestAskNobody(t *testing.T) {
	east, n := cabled(t)
	must(t, east.space.SetUp("lo"))
	self := target{cluster: "west", node: "w1", from: ourMesh, to: ourMesh}
	if r := ask(t.Context(), east, self, n, 0); r.answered != 0 || !r.refused {
		t.Errorf("at a closed port: %+v", r)
	}
	away := target{cluster: "west", node: "w1", from: ourMesh, to: netip.MustParseAddr("192.0.2.1")}
	if r := ask(t.Context(), east, away, n, 0); r.answered != 0 || r.failed == nil {
		t.Errorf("without a route: %+v", r)
	}
}

func TestMTUOfNoDevice(t *testing.T) {
	if mtu, err := (Sockets{Device: "no-such-device"}).MTU(); err == nil {
		t.Errorf("MTU %d", mtu)
	}
}
