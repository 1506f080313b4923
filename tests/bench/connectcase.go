package main

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/datapath"
)

// testCase is one way by which a connection reaches a backend.
type testCase struct {
	name     string
	protocol datapath.Protocol
	services int // 0: the backends themselves are dialled
	backends int // of a service; without services, in all
	dialled  int // services that are dialled, the first ones; 0: all of them
	reverse  datapath.Reverse
	// prepare sets up what translates, in the case's namespace and cgroup.
	prepare func(b *bench, n *namespace, cgroup string, c testCase) error
	// routed asks for a namespace of its own, with rules.
	routed bool

	cgroup string
	client *part
	values []float64 // CPU time of one connection, ns, by round
}

// The cases to which ratios and differences are, of each protocol.
const (
	direct = "direct"
	empty  = "empty program"
)

// prefix begins the names of a protocol's cases.
func prefix(p datapath.Protocol) string {
	if p == datapath.UDP {
		return "UDP "
	}
	return ""
}

func find(cases []*testCase, name string) *testCase {
	for _, c := range cases {
		if c.name == name {
			return c
		}
	}
	return nil
}

// baseOf returns the direct case of c's protocol.
func baseOf(cases []*testCase, c *testCase) *testCase { return find(cases, prefix(c.protocol)+direct) }

// emptyOf returns the case of c's protocol with the empty program.
func emptyOf(cases []*testCase, c *testCase) *testCase { return find(cases, prefix(c.protocol)+empty) }

// sizes are how many services there are in the cases.
func sizes() []int { return []int{10, 10_000, 100_000} }

// connectCases returns the cases that can be measured here; missing names the
// programs for want of which others are left out.
func connectCases(maxServices int) (cases []*testCase, missing []string) {
	cases = append(hookCases(datapath.TCP, datapath.ReverseUDP), hookCases(datapath.UDP, datapath.ReverseNone)...)
	cases = append(cases, ourCases(datapath.UDP, datapath.ReverseUDP, ", reverse entry")...)
	for _, proxy := range []struct{ name, program, rules string }{
		{"iptables", "iptables-nft-restore", "iptables"},
		{"iptables-legacy", "iptables-legacy-restore", "iptables"},
		{"nftables", "nft", "nftables"},
	} {
		if _, err := exec.LookPath(proxy.program); err != nil {
			missing = append(missing, proxy.program)
			continue
		}
		for _, services := range []int{10, 10_000} {
			cases = append(cases, &testCase{
				name:     fmt.Sprintf("%s %d services, %d backends", proxy.name, services, chainBackends),
				protocol: datapath.TCP, services: services, backends: chainBackends, routed: true,
				prepare: func(b *bench, n *namespace, _ string, c testCase) error {
					return b.prepareRules(n, proxy.program, proxy.rules, c)
				},
			})
		}
	}
	var kept []*testCase
	for _, c := range cases {
		if c.services <= maxServices {
			kept = append(kept, c)
		}
	}
	return kept, missing
}

// hookCases returns what is measured of a protocol without any proxy.
func hookCases(p datapath.Protocol, reverse datapath.Reverse) []*testCase {
	return append([]*testCase{
		{name: prefix(p) + direct, protocol: p, backends: 20},
		{name: prefix(p) + "direct-again", protocol: p, backends: 20},
		{name: prefix(p) + "direct, 200,000 backends", protocol: p, backends: 200_000},
		{name: prefix(p) + empty, protocol: p, backends: 20, prepare: (*bench).prepareEmpty},
	}, ourCases(p, reverse, "")...)
}

func ourCases(p datapath.Protocol, reverse datapath.Reverse, suffix string) []*testCase {
	var cases []*testCase
	for _, services := range sizes() {
		for _, backends := range []int{2, 50} {
			cases = append(cases, &testCase{
				name:     fmt.Sprintf("%scauseway %d services, %d backends%s", prefix(p), services, backends, suffix),
				protocol: p, services: services, backends: backends, reverse: reverse, prepare: (*bench).prepareOurs,
			})
		}
	}
	return append(cases, &testCase{
		name:     fmt.Sprintf("%scauseway 100000 services, 2 backends, %d dialled%s", prefix(p), fewDialled, suffix),
		protocol: p, services: 100_000, backends: 2, dialled: fewDialled, reverse: reverse, prepare: (*bench).prepareOurs,
	})
}

// fewDialled is how many services are dialled where the rest only lies there: as
// many as there are in the smallest case.
const fewDialled = 10

// isOurs reports whether the case measures our hooks.
func (c *testCase) isOurs() bool { return strings.Contains(c.name, "causeway") }
