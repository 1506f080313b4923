package preflight

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
)

// good is a node on which all is as it should be.
func good() observed {
	return observed{
		release: "6.12.0", method: packet.TCX, cgroup: "/sys/fs/cgroup",
		network: host.Survey{Uplinks: []host.Uplink{{Name: "eth0", MTU: 1500}}, Forward4: true},
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	c := Config{BPFFS: "/sys/fs/bpf/causeway", Port: 8473}
	for _, f := range judge(c, good()) {
		if f.Level != Fine || f.Do != "" || f.What == "" {
			t.Errorf("a node that lacks nothing: %+v", f)
		}
	}
	for name, test := range map[string]struct {
		change     func(*observed)
		check      string
		level      Level
		says, todo string
	}{
		"old kernel": {func(o *observed) {
			o.release, o.sockets = "4.19.0", fmt.Errorf("no links to cgroups: %w", datapath.ErrKernel)
		}, "kernel", Fail, "no links to cgroups", "5.10"},
		"locked down": {func(o *observed) { o.lockdown = "confidentiality" }, "kernel", Fail, "locked down", "lockdown=integrity"},
		"no rights":   {func(o *observed) { o.sockets = unix.EPERM; o.packets = unix.EPERM }, "kernel", Fail, "not permitted", "capabilities"},
		"no tunnels":  {func(o *observed) { o.packets = packet.ErrKernel }, "packets", Limit, "no tunnels", "6.0"},
		"no cgroup":   {func(o *observed) { o.cgroupErr = datapath.ErrCgroup }, "cgroup", Fail, "no cgroup v2", "mount"},
		"no bpffs":    {func(o *observed) { o.bpffs = errors.New("/sys/fs/bpf is not on a BPF file system") }, "bpffs", Fail, "not on a BPF", "mount -t bpf"},
		"others": {func(o *observed) {
			o.programs = []program{{"connect4", "cil_sock4_connect"}, {"connect6", "cil_sock6_connect"}}
		}, "programs", Note, "connect4 cil_sock4_connect, connect6", "kube-proxy"},
		"many others": {func(o *observed) {
			for i := range 8 {
				o.programs = append(o.programs, program{"connect4", fmt.Sprint("p", i)})
			}
		}, "programs", Note, "p4 and 3 more", ""},
		"others unknown": {func(o *observed) { o.queryErr = unix.EPERM }, "programs", Note, "can not be listed", ""},
		"a taken port":   {func(o *observed) { o.port = unix.EADDRINUSE }, "port", Limit, "UDP port 8473", "its own"},
		"a tunnel's port": {func(o *observed) {
			o.port, o.network.Tunnels = unix.EADDRINUSE, map[string]int{"flannel.1": 8473, "other": 1}
		}, "port", Limit, "flannel.1 has UDP port 8473", "--mesh-port"},
		"a small MTU":   {func(o *observed) { o.network.Uplinks[0].MTU = 1300 }, "mtu", Limit, "eth0 carries 1300", "1350"},
		"no forwarding": {func(o *observed) { o.network.Forward4 = false }, "forwarding", Limit, "no packets", "ip_forward"},
		"firewall":      {func(o *observed) { o.network.Drops = []string{"ip filter FORWARD"} }, "firewall", Note, "ip filter FORWARD", ""},
		"old iptables":  {func(o *observed) { o.network.Legacy = true }, "firewall", Note, "old iptables", "iptables-legacy"},
		"masquerade":    {func(o *observed) { o.network.Masquerades = []string{"ip nat CNI"} }, "masquerade", Note, "ip nat CNI", ""},
		"a strict filter": {func(o *observed) {
			o.network.StrictSource, o.network.Uplinks = true, append(o.network.Uplinks, host.Uplink{Name: "eth1", MTU: 1500})
		}, "rp_filter", Note, "several uplinks", "to 2"},
		"unknown network": {func(o *observed) { o.networkErr = unix.EPERM }, "network", Note, "can not be looked at", "NET_ADMIN"},
		"gateway away":    {func(o *observed) { o.gateways = map[string]error{"a:1": unix.ETIMEDOUT} }, "gateway", Note, "a:1", "TCP"},
		"a silent port": {func(o *observed) {
			ip := netip.MustParseAddr("192.0.2.1")
			o.nodes, o.ways = map[netip.Addr]error{ip: nil}, map[netip.Addr]way{ip: {small: errSilent}}
		}, "udp", Note, "says nothing", "between all nodes"},
		"only their kubelets away": {func(o *observed) {
			ip := netip.MustParseAddr("192.0.2.1")
			o.nodes, o.ways = map[netip.Addr]error{ip: unix.ETIMEDOUT}, map[netip.Addr]way{ip: {}}
		}, "node", Note, "answers by UDP", ""},
		"other nodes away": {func(o *observed) { o.nodes = map[netip.Addr]error{netip.MustParseAddr("192.0.2.1"): unix.ETIMEDOUT} }, "node", Limit, "192.0.2.1", "mesh port"},
	} {
		o := good()
		test.change(&o)
		r := Report{Findings: judge(c, o)}
		found := false
		for _, f := range r.Findings {
			found = found || f.Check == test.check && f.Level == test.level && strings.Contains(f.What, test.says) && strings.Contains(f.Do, test.todo)
		}
		if !found || r.Worst().above(test.level) {
			t.Errorf("%s: %+v", name, r.Findings)
		}
	}
}

func TestChosen(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"[none] integrity confidentiality\n": "none", "none integrity [confidentiality]": "confidentiality", "": ""} {
		if got := chosen(text); got != want {
			t.Errorf("chosen(%q) = %q", text, got)
		}
	}
}
