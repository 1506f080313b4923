package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	services, backends := netip.MustParsePrefix(serviceRange), netip.MustParsePrefix(backendRange)
	if got := serviceAddress(0); got.String() != "10.96.1.0:80" {
		t.Errorf("service 0: %s", got)
	}
	if got := backendAddress(256); got.String() != "10.128.2.0:8080" {
		t.Errorf("backend 256: %s", got)
	}
	if !services.Contains(serviceAddress(99_999).Addr()) || !backends.Contains(backendAddress(300_000).Addr()) || services.Overlaps(backends) {
		t.Error("addresses leave their ranges")
	}
}

func TestBackendsOf(t *testing.T) {
	for _, test := range []struct{ service, asked, want int }{
		{0, 2, 2}, {5000, 2, 2}, {0, 50, 50}, {999, 50, 50}, {1000, 50, 2},
	} {
		if got := backendsOf(test.service, test.asked); got != test.want {
			t.Errorf("service %d of a case with %d: %d backends, want %d", test.service, test.asked, got, test.want)
		}
	}
}

// TestTargets: a client dials what exists, and only services with as many
// backends as its case says.
func TestTargets(t *testing.T) {
	cases, _ := connectCases(100_000)
	for _, c := range cases {
		first, count := c.targets()
		if c.services == 0 {
			if first != backendAddress(0) || count != c.backends {
				t.Errorf("%s: dials %d from %s", c.name, count, first)
			}
			continue
		}
		if first != serviceAddress(0) || count > c.services || backendsOf(count-1, c.backends) != c.backends {
			t.Errorf("%s: dials %d from %s", c.name, count, first)
		}
	}
}

func TestCases(t *testing.T) {
	all, _ := connectCases(100_000)
	if all[0].name != direct {
		t.Errorf("the first case is %q", all[0].name)
	}
	few, _ := connectCases(10)
	for _, c := range few {
		if c.services > 10 {
			t.Errorf("%s has more services than asked for", c.name)
		}
	}
	t.Setenv("PATH", t.TempDir())
	bare, missing := connectCases(100_000)
	if len(missing) != 3 || slices.ContainsFunc(bare, func(c *testCase) bool { return c.routed }) {
		t.Errorf("without any program: missing %q", missing)
	}
}

// TestRules counts what makes the layout what it is: the chains of a service
// and of its backends, and the one list or map that finds the service.
func TestRules(t *testing.T) {
	const services = nftablesBatch + 7
	batches := nftablesRules(services)
	iptables, nftables := iptablesRules(services), strings.Join(batches, "")
	if len(batches) != 3 {
		t.Errorf("%d inputs of nft, want the frame and 2 with services", len(batches))
	}
	for _, test := range []struct {
		rules, text string
		want        int
	}{
		{iptables, ":KUBE-SVC-", services},
		{iptables, ":KUBE-SEP-", 2 * services},
		{iptables, "-A KUBE-SERVICES -d ", services},
		{iptables, "-j DNAT --to-destination ", 2 * services},
		{iptables, "--probability 0.5000000000", services},
		{iptables, "\nCOMMIT\n", 2},
		{nftables, "\tchain service-", services + 1}, // and service-endpoints-check
		{nftables, "\tchain endpoint-", 2 * services},
		{nftables, " : goto service-", services},
		{nftables, "numgen random mod 2", services},
		{nftables, "dnat to ", 2 * services},
	} {
		if got := strings.Count(test.rules, test.text); got != test.want {
			t.Errorf("%q stands there %d times, want %d", test.text, got, test.want)
		}
	}
	if got := strings.Count(nftables, "{") - strings.Count(nftables, "}"); got != 0 {
		t.Errorf("%d braces of nftables are not closed", got)
	}
}

// TestConnect runs the whole benchmark, very small, and looks at what it
// leaves behind.
func TestConnect(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces, cgroups and eBPF")
	}
	for _, program := range []string{"iptables-nft-restore", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	dir := t.TempDir()
	if err := run(t.Context(), []string{"connect", "-rounds=2", "-connections=10", "-max-services=10", "-dir=" + dir}, nil, os.Stdout); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "connect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got result
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	cases, _ := connectCases(10)
	ours := 0
	for _, c := range cases {
		if c.isOurs() {
			ours++
		}
	}
	// Of ours three figures, of the two empty programs two.
	if want := len(cases) + 2 + 2*ours; len(got.Rows) != want || ours != 6 {
		t.Errorf("%d rows, want %d; %d cases are ours", len(got.Rows), want, ours)
	}
	for _, row := range got.Rows {
		if row.Metric == overEmpty {
			continue // in ten connections it may be anything
		}
		if row.Value <= 0 || row.Ratio <= 0 || row.RatioLow > row.RatioHigh {
			t.Errorf("row %+v", row)
		}
	}
}
