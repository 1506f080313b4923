package host_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// TestLeftovers: what another version left under our marks is brought into our
// form, and what only looks like it is left alone.
func TestLeftovers(t *testing.T) {
	s := newSide(t, "a", 1)
	for _, command := range []string{
		"ip rule add pref 90 lookup 4711 protocol 203",
		"ip rule add pref 100 lookup 8473",
		"ip -6 rule add pref 100 from fd00::/8 lookup 8473 protocol 203",
		"ip route add 10.9.0.0/16 dev pod0 table 4711 proto 203",
		"ip route add 10.8.0.0/16 dev pod0 table 8473 proto 98",
		"ip -6 route add fd00:9::/64 dev pod0 table 8473 proto 203",
		"nft add table inet causeway",
		"nft add chain inet causeway older { type filter hook forward priority 0 ; policy drop ; }",
		"nft add table ip causeway",
		"nft add table inet cni",
		"nft add chain inet cni forward { type filter hook forward priority 0 ; policy accept ; }",
		`nft add rule inet cni forward iifname mesh9 accept comment "causeway: mesh9 is forwarded"`,
		`nft add rule inet cni forward iifname mesh9 accept comment "causeways"`,
	} {
		args := strings.Fields(command)
		if strings.Contains(command, `"`) { // the comment is one word to nft
			before, after, _ := strings.Cut(command, "comment ")
			args = append(strings.Fields(before), "comment", after)
		}
		s.run(s.node, args[0], args[1:]...)
	}
	h := s.openHost(host.Config{})
	d := host.Desired{Mesh: s.mesh, Routes: []host.Route{{Prefix: netip.MustParsePrefix("10.2.0.0/16"), Mode: route.VXLAN}}}
	must(t, h.Apply(d))
	state := s.state()
	for text, want := range map[string]int{
		"4711": 0, "proto 98": 1, "lookup 8473 proto 203": 2, "from all lookup 8473\n": 1, "fd00:9::": 0, "older": 0,
		"table ip causeway": 1, "mesh9 is forwarded": 0, `"causeways"`: 1, "10.2.0.0/16 via": 1,
	} {
		if got := strings.Count(state, text); got != want {
			t.Errorf("%q stands %d times, want %d", text, got, want)
		}
	}
	_, err := h.Remove()
	must(t, err)
	state = s.state()
	for text, want := range map[string]int{"proto 203": 0, "proto 98": 1, "from all lookup 8473\n": 1, "table ip causeway": 1, `"causeways"`: 1, "inet causeway": 0} {
		if got := strings.Count(state, text); got != want {
			t.Errorf("after Remove: %q stands %d times, want %d\n%s", text, got, want, state)
		}
	}
}

// TestForeignTable: a route of somebody else's in our table stays, and is told.
func TestForeignTable(t *testing.T) {
	s := newSide(t, "a", 1)
	s.cloudRules()
	s.run(s.node, "ip", "route", "add", "10.2.0.0/16", "dev", "pod0", "table", "8473")
	h := s.openHost(host.Config{})
	d := host.Desired{Mesh: s.mesh, Routes: []host.Route{{Prefix: netip.MustParsePrefix("10.2.0.0/16"), Mode: route.VXLAN}}}
	must(t, h.Apply(d))
	if text := s.run(s.node, "ip", "route", "show", "table", "8473"); strings.Contains(text, "mesh0") || !strings.Contains(text, "10.2.0.0/16 dev pod0") {
		t.Error(text)
	}
	if problems := fmt.Sprint(h.Problems()); !strings.Contains(problems, "10.2.0.0/16 table 8473") {
		t.Errorf("problems %s", problems)
	}
	// Another table is nobody's.
	other := s.openHost(host.Config{Table: 8474})
	must(t, other.Apply(d))
	if text := s.run(s.node, "ip", "route", "get", "10.2.0.1"); !strings.Contains(text, "table 8474") && !strings.Contains(text, "dev mesh0") {
		t.Error(text)
	}
	if rules := s.run(s.node, "ip", "rule"); strings.Count(rules, "proto 203") != 1 {
		t.Error(rules)
	}
}

// TestOldIPTables: where its program is missing, the old iptables is told.
func TestOldIPTables(t *testing.T) {
	s := newSide(t, "a", 1)
	program, err := exec.LookPath("iptables-legacy")
	must(t, err)
	h := s.openHost(host.Config{})
	t.Setenv("PATH", t.TempDir())
	must(t, h.Apply(host.Desired{Mesh: s.mesh}))
	if problems := h.Problems(); len(problems) != 0 {
		t.Errorf("not in use: problems %v", problems)
	}
	s.run(s.node, program, "-P", "FORWARD", "DROP")
	must(t, h.Apply(host.Desired{Mesh: s.mesh, MTU: 1400}))
	if problems := fmt.Sprint(h.Problems()); !strings.Contains(problems, "iptables-legacy -A FORWARD -i mesh0 -j ACCEPT") {
		t.Errorf("problems %s", problems)
	}
	if _, err := h.Items(); err != nil {
		t.Error(err)
	}
	if _, err := h.Remove(); err != nil {
		t.Error(err)
	}
}

// TestBadIPTables: where the program of the old iptables fails, that is told, and
// all that has nothing to do with it is done, the other family's rules as well.
func TestBadIPTables(t *testing.T) {
	s := newSide(t, "a", 1)
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
		s.run(s.node, program, "-P", "FORWARD", "DROP")
	}
	real6, err := exec.LookPath("ip6tables-legacy")
	must(t, err)
	h := s.openHost(host.Config{})
	path := os.Getenv("PATH")
	programs := t.TempDir()
	must(t, os.WriteFile(filepath.Join(programs, "iptables-legacy"), []byte("#!/bin/sh\necho no such module >&2\nexit 3\n"), 0o700),
		os.Symlink(real6, filepath.Join(programs, "ip6tables-legacy")))
	t.Setenv("PATH", programs+":/usr/bin:/bin")
	d := host.Desired{Mesh: s.mesh, Routes: []host.Route{{Prefix: netip.MustParsePrefix("10.2.0.0/16"), Mode: route.VXLAN}}}
	must(t, h.Apply(d))
	if problems := fmt.Sprint(h.Problems()); !strings.Contains(problems, "iptables-legacy FORWARD: ") || !strings.Contains(problems, "no such module") {
		t.Errorf("problems %s", problems)
	}
	_, err = h.Remove() // says what it could not do, and does the rest
	if err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("removed: %v", err)
	}
	must(t, h.Apply(d))
	t.Setenv("PATH", path)
	if text := s.run(s.node, "ip6tables-legacy", "-S", "FORWARD"); !strings.Contains(text, "-A FORWARD -i mesh0") {
		t.Errorf("IPv6: %s", text)
	}
	if text := s.run(s.node, "ip", "route", "get", "10.2.0.1"); !strings.Contains(text, "dev mesh0") {
		t.Errorf("routed %s", text)
	}
	must(t, h.Apply(host.Desired{Mesh: s.mesh, MTU: 1400}))
	if text := s.run(s.node, "iptables-legacy", "-S", "FORWARD"); !strings.Contains(text, "-A FORWARD -i mesh0") || len(h.Problems()) != 0 {
		t.Errorf("IPv4: %s, problems %v", text, h.Problems())
	}
}

// TestIdle: Run has nothing to do before there is anything desired, and ends when
// it is told to; what cannot be is refused and changes nothing.
func TestIdle(t *testing.T) {
	s := newSide(t, "a", 1)
	before := s.rested()
	registry := prometheus.NewRegistry()
	h := s.openHost(host.Config{Registerer: registry})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	s.run(s.node, "ip", "route", "add", "10.99.0.0/16", "dev", "pod0")
	s.run(s.node, "ip", "route", "del", "10.99.0.0/16", "dev", "pod0")
	if err := h.Apply(host.Desired{Mesh: []netip.Addr{{}}}); err == nil {
		t.Error("no address is an address")
	}
	must(t, h.Apply(host.Desired{}))
	cancel()
	must(t, <-done)
	if after := s.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	families, err := registry.Gather()
	must(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	want := "causeway_host_mtu_bytes causeway_host_problems causeway_host_refused_packets_total causeway_host_repairs_total"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("metrics %s, want %s", got, want)
	}
}
