package preflight

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

// run runs a program of others, or skips the test without it; with CI=true nothing
// is missing.
func run(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil && os.Getenv("CI") != "true" {
		t.Skipf("%s is missing", args[0])
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// of returns the findings of a check, a line each.
func of(r *Report, check string) string {
	var out []string
	for _, f := range r.Findings {
		if f.Check == check {
			out = append(out, string(f.Level)+" "+f.What)
		}
	}
	return strings.Join(out, "\n")
}

// foreign puts a program at a hook, as somebody else would.
func foreign(t *testing.T, cgroup, name string) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), p.Close() })
}

// onUplink puts programs onto a device, by clsact and, where the kernel has that, by tcx.
func onUplink(t *testing.T, device string) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	at, err := netlink.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	index := at.Attrs().Index
	err = errors.Join(
		netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}, QdiscType: "clsact"}),
		netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          p.FD(), Name: "their_filter", DirectAction: true,
		}))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{device + " ingress their_filter"}
	if sandbox.Since(t, 6, 6) {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXEgress})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		want = append([]string{device + " egress theirs"}, want...)
	}
	got := names(tcPrograms(device))
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("programs on %s: %q, want %q", device, got, want)
	}
}

// A node is seen as it is: first with nothing in the way, then with all of it.
func TestLook(t *testing.T) {
	cgroup, bpffs := sandbox.NewCgroup(t), sandbox.BPFFS(t)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	open, closed := listener.Addr().String(), "127.0.0.1:1"
	c := Config{
		Node: "n1", BPFFS: filepath.Join(bpffs, "to", "be", "made"), Cgroup: cgroup, Port: 8473,
		Gateways: []string{open, closed}, Nodes: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	}
	before := Look(t.Context(), c)
	for check, want := range map[string]string{
		"kernel": "ok Linux", "bpffs": "ok", "cgroup": "ok", "programs": "ok nobody", "port": "ok UDP port 8473 is free", "node": "ok 127.0.0.1 answers",
		"firewall": "", "masquerade": "", "mtu": "", "tc": "",
	} {
		if got := of(before, check); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("before: %s: %q, want %q", check, got, want)
		}
	}
	if got := of(before, "gateway"); !strings.Contains(got, "ok "+open+" answers") || !strings.Contains(got, "note "+closed) {
		t.Errorf("gateways: %s", got)
	}
	if before.Node != "n1" {
		t.Errorf("node %q", before.Node)
	}

	foreign(t, cgroup, "somebody")
	for _, command := range []string{
		"ip link add flannel.1 type vxlan id 1 dstport 8473 dev lo",
		"ip link set flannel.1 up",
		"ip link add eth9 mtu 1300 type veth peer name eth8",
		"ip link set eth9 up",
		"ip link set eth8 up",
		"ip addr add 192.0.2.1/24 dev eth9",
		"ip route add default via 192.0.2.2",
		"nft add table ip others",
		"nft add chain ip others forward { type filter hook forward priority 0 ; policy drop ; }",
		"nft add chain ip others away",
		"nft add rule ip others away masquerade",
	} {
		run(t, strings.Fields(command)...)
	}
	t.Cleanup(func() {
		run(t, "ip", "link", "del", "flannel.1")
		run(t, "ip", "link", "del", "eth9")
		run(t, "nft", "delete", "table", "ip", "others")
	})
	onUplink(t, "eth9")
	c.BPFFS = filepath.Join(t.TempDir(), "pins")
	after := Look(t.Context(), c)
	for check, want := range map[string]string{
		"tc": "note others have tc programs on the node's uplinks: eth9 ", "bpffs": "fail", "programs": "note others have programs at the socket hooks: connect4 somebody",
		"port": "limit VXLAN device flannel.1 has UDP port 8473", "mtu": "limit eth9 carries 1300 bytes",
		"firewall": "note chains that forward nothing by policy: ip others forward", "masquerade": "note packets get another source in ip others away",
	} {
		if got := of(after, check); !strings.HasPrefix(got, want) {
			t.Errorf("after: %s: %q, want %q", check, got, want)
		}
	}
	if after.Worst() != Fail {
		t.Errorf("worst is %s", after.Worst())
	}
}

// An agent's own programs are not somebody else's.
func TestLookBesideAgent(t *testing.T) {
	cgroup, bpffs := sandbox.NewCgroup(t), sandbox.BPFFS(t)
	plane, err := datapath.Open(datapath.Config{BPFFS: filepath.Join(bpffs, "causeway"), Cgroup: cgroup, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Close() })
	if err := plane.Complete(); err != nil {
		t.Fatal(err)
	}
	c := Config{BPFFS: filepath.Join(bpffs, "causeway"), Cgroup: cgroup, Port: 8473}
	if got := of(Look(t.Context(), c), "programs"); !strings.HasPrefix(got, "ok nobody else") {
		t.Error(got)
	}
	c.BPFFS = bpffs + "/elsewhere"
	found := of(Look(t.Context(), c), "programs")
	if names := []string{"connect4", "sendmsg6", "recvmsg4"}; !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(found, n) }) {
		t.Errorf("programs of an agent with another folder: %q", found)
	}
}
