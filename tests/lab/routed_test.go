package lab_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestRouted looks at what reaches what without any mesh, and what source it has
// then.
func TestRouted(t *testing.T) {
	labtest.RequireRoot(t)
	for name, network := range labtest.Faces() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, underlay := range []labtest.Underlay{labtest.Dual, labtest.IPv6} {
				testRouted(t, network, underlay)
			}
		})
	}
}

func testRouted(t *testing.T, network lab.Network, underlay labtest.Underlay) {
	t.Helper()
	l := labtest.New(t)
	east := labtest.AddSite(t, l, labtest.Site{Name: "east", ID: 1, Underlay: underlay, Network: network})
	west := labtest.AddSite(t, l, labtest.Site{Name: "west", ID: 2, Underlay: underlay, Network: network})
	client, web, host := shopPod(t, east, "client"), shopPod(t, east, "web"), shopPod(t, east, "host")
	farWeb, farHost := shopPod(t, west, "web"), shopPod(t, west, "host")

	for i, ip := range web.IPs {
		// A plugin takes the node's range for the cluster's, and no more.
		want := client.IPs[i]
		if network.Plugin != "" {
			want = client.On.IP(ip.Is6())
		}
		if want.IsValid() {
			wantSource(t, client.Place, ip, 8080, want)
		}
	}
	for _, ip := range host.IPs {
		wantSource(t, farWeb.Place, ip, 8081, farWeb.On.IP(ip.Is6())) // masqueraded
		wantSource(t, farHost.Place, ip, 8081, farHost.On.IP(ip.Is6()))
	}
	for _, ip := range farWeb.IPs {
		// Without a way out of that family there is nothing that could leak.
		want := underlay == labtest.Dual || ip.Is6()
		for _, from := range []*lab.Place{client.Place, host.Place, client.On.Place} {
			before := leaks(t, west)
			wantNothing(t, from, ip, 8080)
			// On a slow machine an attempt may be over before it has sent anything.
			for end := time.Now().Add(time.Minute); want && leaks(t, west) == before && time.Now().Before(end); {
				wantNothing(t, from, ip, 8080)
			}
			if grown := leaks(t, west) > before; grown != want {
				t.Errorf("from %s to %s: leaks counted: %v, want %v", from, ip, grown, want)
			}
		}
	}
	must(t, web.Remove(t.Context()), host.Remove(t.Context()))
	wantNothing(t, client.Place, web.IPs[0], 8080)
	must(t, east.Sync(t.Context())) // and back
	wantSource(t, client.Place, host.IPs[0], 8081, client.On.IP(host.IPs[0].Is6()))
}

// TestReaddress lets two nodes swap their addresses, and then gives one another.
func TestReaddress(t *testing.T) {
	labtest.RequireRoot(t)
	l := labtest.New(t)
	network := lab.Network{Kind: lab.Routed, SourceTables: true}
	east := labtest.AddSite(t, l, labtest.Site{Name: "east", ID: 1, Network: network})
	west := labtest.AddSite(t, l, labtest.Site{Name: "west", ID: 2, Network: network, More: 2})
	far, third, fourth := shopPod(t, east, "host"), shopPod(t, west, "web-3"), shopPod(t, west, "web-4")
	check := func() {
		t.Helper()
		for i, ip := range third.IPs {
			wantSource(t, shopPod(t, west, "client").Place, ip, 8080, shopPod(t, west, "client").IPs[i])
		}
		for _, pod := range []*lab.Pod{third, fourth} {
			for _, ip := range far.IPs {
				wantSource(t, pod.Place, ip, 8081, pod.On.IP(ip.Is6()))
			}
		}
	}
	check()
	was := third.On.IPs
	must(t, l.Readdress(map[*lab.Node][]netip.Addr{third.On: fourth.On.IPs, fourth.On: was}))
	check()
	must(t, l.Readdress(map[*lab.Node][]netip.Addr{fourth.On: {netip.MustParseAddr("192.0.2.29"), netip.MustParseAddr("2001:db8::29")}}))
	check()
	wantNothing(t, far.On.Place, was[0], 8080)
}

func shopPod(t *testing.T, c *lab.Cluster, name string) *lab.Pod {
	t.Helper()
	p, err := c.Pod("shop", name)
	must(t, err)
	return p
}

func at(ip netip.Addr, port int) string { return net.JoinHostPort(ip.String(), strconv.Itoa(port)) }

// wantSource asks by TCP and UDP and wants the server to have seen source.
func wantSource(t *testing.T, from *lab.Place, ip netip.Addr, port int, source netip.Addr) {
	t.Helper()
	for _, protocol := range []string{workload.TCP, workload.UDP} {
		result, err := from.Exchange(t.Context(), protocol, at(ip, port), 100)
		must(t, err)
		seen, err := netip.ParseAddrPort(result.Remote)
		if err != nil || seen.Addr().Unmap() != source {
			t.Errorf("from %s to %s by %s: the server saw %s, want %s (%s)", from, ip, protocol, result.Remote, source, result.Error)
		}
	}
}

// wantNothing gives up soon: silence can only be waited for.
func wantNothing(t *testing.T, from *lab.Place, ip netip.Addr, port int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", at(ip, port))
	if err == nil {
		_ = conn.Close()
		t.Errorf("from %s to %s: reached", from, ip)
	}
}

func leaks(t *testing.T, c *lab.Cluster) uint64 {
	t.Helper()
	n, err := c.Leaks()
	must(t, err)
	return n
}

func TestNetworkErrors(t *testing.T) {
	for name, network := range map[string]lab.Network{
		"a small MTU":      {MTU: 1279},
		"a huge MTU":       {PodMTU: 10_000},
		"another plugin":   {Kind: lab.Routed, Plugin: "macvlan"},
		"a flat face":      {StrictReturnPath: true},
		"a flat plugin":    {Plugin: "ptp"},
		"flat and cloudly": {SourceTables: true},
	} {
		if err := network.Validate(); !errors.Is(err, lab.ErrNetwork) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (lab.Network{}).Validate(); err != nil {
		t.Error(err)
	}
}
