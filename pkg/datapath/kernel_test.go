package datapath

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func TestDecide(t *testing.T) {
	all := Features{Connect4: Yes, Connect6: Yes, Datagram: Yes, Release: Yes, PeerName: Yes, Retval: Yes, Link: Yes, Batch: Yes}
	tests := []struct {
		name   string
		change func(*Features)
		want   string // in the error; "" for none
	}{
		{"all", func(*Features) {}, ""},
		{"unknown is tried", func(f *Features) { *f = Features{Err: unix.EIO} }, ""},
		{"no IPv6", func(f *Features) { f.Connect6 = No }, ""},
		{"no hooks", func(f *Features) { f.Connect4, f.Link = No, Unknown }, "socket hooks for connect"},
		{"no links", func(f *Features) { f.Link = No }, "no links to cgroups: the kernel lacks"},
		{"old", func(f *Features) { f.Link, f.Batch = No, No }, "no links to cgroups, no batches of map entries"},
		{"not root", func(f *Features) { *f = Features{Err: unix.EPERM} }, "run as root"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := all
			test.change(&f)
			got, err := f.decide(ReverseUDP)
			if test.want == "" {
				if err != nil || got != f {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, test.want)
			}
			if f.Err == nil && !errors.Is(err, ErrKernel) {
				t.Errorf("%v is no ErrKernel", err)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	sandbox.Require(t)
	want := Features{Connect4: Yes, Connect6: Yes, Datagram: Yes, Release: Yes, PeerName: Yes, Retval: Yes, Link: Yes, Batch: Yes}
	if !sandbox.Since(t, 5, 18) {
		want.Retval = No
	}
	if got := Probe(); got != want {
		t.Errorf("got %+v", got)
	}
}

func TestCgroupMounts(t *testing.T) {
	const mountinfo = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:10 master:1 - cgroup2 cgroup2 rw
42 31 0:38 /../.. /outer rw - cgroup2 cgroup2 rw
43 31 0:38 /kubepods /pods rw - cgroup2 cgroup2 rw
44 31 0:38 / /with\040space rw - cgroup2 cgroup2 rw
45 31 0:38 / /short rw
`
	got, err := cgroupMounts(strings.NewReader(mountinfo))
	want := []cgroupMount{{"/sys/fs/cgroup/unified", "/"}, {"/outer", "/../.."}, {"/with space", "/"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(cgroupMount{})); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

// A container at the top of what it sees has a view of its own; one below it
// has the node's, which may be a container itself.
func TestCgroupAbove(t *testing.T) {
	tests := []struct {
		name, root, self string
		want             bool
	}{
		{"own view", "/", "0::/\n", false},
		{"own view beside version 1", "/", "1:cpu:/pod\n0::/\n", false},
		{"version 1 alone", "/", "1:cpu:/pod\n", false},
		{"a pod of a node that is a container", "/", "1:cpu:/pod\n0::/kubelet.slice/pod\n", true},
		{"the same, in a cgroup namespace of its own", "/../../..", "0::/\n", true},
	}
	for _, test := range tests {
		if got := (cgroupMount{root: test.root}).above(ownCgroup(test.self)); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestCgroup(t *testing.T) {
	root, err := FindCgroupRoot()
	if err != nil {
		t.Skipf("this machine has no cgroup v2: %v", err)
	}
	if !isTrueRoot(root) {
		t.Errorf("%s is not the root", root)
	}
	if isTrueRoot(sandbox.Cgroup(t)) {
		t.Error("the sandbox's cgroup passes for the root")
	}
	for _, dir := range []string{t.TempDir(), "/nowhere"} {
		if _, err := openCgroup(dir); !errors.Is(err, ErrCgroup) {
			t.Errorf("%s: got %v", dir, err)
		}
	}
}
