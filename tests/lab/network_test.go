package lab_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestFamilies reaches pods of both families over nodes of one or both.
func TestFamilies(t *testing.T) {
	l := labtest.New(t)
	c := labtest.AddCluster(t, l, "one", 1, "testdata/dual.yaml")
	both, six, four := pod(t, c, "both"), pod(t, c, "six"), pod(t, c, "four")

	if diff := cmp.Diff([]int{80, 8443, 9000}, both.TCP); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	mustAnswer(t, both.Place, six, workload.HTTP, 80)
	mustAnswer(t, both.Place, six, workload.UDP, 80)
	mustAnswer(t, both.Place, four, workload.TCP, 8080)
	mustAnswer(t, six.Place, &lab.Pod{Place: both.Place, On: both.On, PodSpec: lab.PodSpec{
		Namespace: both.Namespace, Name: both.Name, IPs: []netip.Addr{both.IPs[1]},
	}}, workload.TCP, 8443)
	for _, n := range c.Nodes() {
		mustAnswer(t, n.Place, six, workload.TCP, 80)
	}
}

// TestCut takes a node, then a cluster off the network and back.
func TestCut(t *testing.T) {
	l := labtest.New(t)
	east := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	west := labtest.AddCluster(t, l, "west", 2, dumps+"west.yaml")
	e1, e2, w1 := east.Nodes()[0], east.Nodes()[1], west.Nodes()[0]

	must(t, e1.Cut())
	wantReach(t, e1, e2, false)
	wantReach(t, w1, e1, false)
	wantReach(t, w1, e2, true)
	must(t, e1.Heal())
	wantReach(t, e1, e2, true)
	wantReach(t, w1, e1, true)

	must(t, west.Cut())
	wantReach(t, e1, w1, false)
	wantReach(t, e1, e2, true)
	wantReach(t, w1, west.Nodes()[1], true)
	must(t, west.Heal())
	wantReach(t, e1, w1, true)
}

// wantReach asks a pod on node to, or gives up soon when nothing is expected:
// silence can only be waited for.
func wantReach(t *testing.T, from, to *lab.Node, want bool) {
	t.Helper()
	limit := 60 * time.Second // after a cut, the neighbours are found anew
	if !want {
		limit = 300 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	target := netip.AddrPortFrom(to.Pods()[0].IPs[0], 8080).String()
	var err error
	for ctx.Err() == nil {
		var conn net.Conn
		once, done := context.WithTimeout(ctx, time.Second)
		conn, err = from.Dial(once, "tcp", target)
		done()
		if err == nil {
			_ = conn.Close()
			break
		}
	}
	if want != (err == nil) {
		t.Errorf("from %s to %s: want reached %v, got %v", from, to, want, err)
	}
}

// TestDialListen opens sockets of this process in a node's namespace.
func TestDialListen(t *testing.T) {
	l := labtest.New(t)
	c := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	n1, n2 := c.Nodes()[0], c.Nodes()[1]
	listener, err := n1.Listen(t.Context(), "tcp", "10.77.0.11:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.WriteString(conn, conn.RemoteAddr().String())
			_ = conn.Close()
		}
	}()
	conn, err := n2.Dial(t.Context(), "tcp", "10.77.0.11:7000")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	_ = conn.Close()
	if string(text) != conn.LocalAddr().String() || err != nil {
		t.Errorf("server saw %q (%v), client is %s", text, err, conn.LocalAddr())
	}
	if _, err := n1.Dial(t.Context(), "tcp", "localhost:7000"); err == nil {
		t.Error("a name was resolved")
	}
	if _, err := n1.Listen(t.Context(), "tcp", "localhost:7000"); err == nil {
		t.Error("a name was resolved")
	}
}

// TestMachineUntouched looks for the lab's ranges among the machine's own
// addresses and routes.
func TestMachineUntouched(t *testing.T) {
	l := labtest.New(t)
	_ = labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	ranges := []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("10.201.0.0/16")}
	check := func(what string, ip net.IP) {
		address, _ := netip.AddrFromSlice(ip)
		for _, r := range ranges {
			if r.Contains(address.Unmap()) {
				t.Errorf("the machine has %s %s of the lab", what, address)
			}
		}
	}
	found, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range found {
		check("address", a.(*net.IPNet).IP)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range routes {
		if r.Dst != nil {
			check("a route to", r.Dst.IP)
		}
	}
}

func pod(t *testing.T, c *lab.Cluster, name string) *lab.Pod {
	t.Helper()
	p, err := c.Pod("default", name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
