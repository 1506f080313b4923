package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
)

// observed are the facts that are judged.
type observed struct {
	release  string
	lockdown string // the chosen word of the kernel's list, "" without one
	sockets  error  // why the socket hooks can not run
	method   packet.Method
	packets  error // why packets can not be carried

	cgroup    string
	cgroupErr error
	bpffs     error
	programs  []program
	queryErr  error
	uplinks   []program // others' tc programs on the devices that lead away

	network    host.Survey
	networkErr error
	port       error // why the tunnels' port can not be had

	gateways map[string]error
	nodes    map[netip.Addr]error
	ways     map[netip.Addr]way // to them, by the tunnels' port
}

// program is one of somebody else's, at a hook where ours go, too.
type program struct{ hook, name string }

// tryFor bounds how long an address is waited for.
const tryFor = 3 * time.Second

// kubeletPort is a port at which most nodes answer.
const kubeletPort = 10250

func observe(ctx context.Context, c Config) observed {
	var o observed
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		o.release = unix.ByteSliceToString(name.Release[:])
	}
	if text, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil {
		o.lockdown = chosen(string(text))
	}
	o.sockets = datapath.Probe().Supported()
	o.method, o.packets = packet.Supported()
	if o.cgroup = c.Cgroup; o.cgroup == "" {
		o.cgroup, o.cgroupErr = datapath.FindCgroupRoot()
	}
	if o.cgroupErr == nil {
		o.programs, o.queryErr = socketPrograms(o.cgroup, ours(c.BPFFS))
	}
	o.bpffs = checkBPFFS(c.BPFFS)
	o.network, o.networkErr = host.Look()
	for _, u := range o.network.Uplinks {
		o.uplinks = append(o.uplinks, tcPrograms(u.Name)...)
	}
	o.port = tryPort(c.Port)
	o.reach(ctx, c)
	return o
}

// chosen returns the word in brackets.
func chosen(text string) string {
	_, rest, _ := strings.Cut(text, "[")
	word, _, _ := strings.Cut(rest, "]")
	return word
}

// hooks are where our programs go, by the names that bpftool has for them.
func hooks() map[string]ebpf.AttachType {
	return map[string]ebpf.AttachType{
		"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect,
		"sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
		"recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
		"getpeername4": ebpf.AttachCgroupInet4GetPeername, "getpeername6": ebpf.AttachCgroupInet6GetPeername,
	}
}

// socketPrograms lists others' programs at the root of the hierarchy, by hook.
func socketPrograms(cgroup string, ours map[ebpf.ProgramID]bool) (out []program, err error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close() // read only
	for hook, attach := range hooks() {
		result, queryErr := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: attach})
		if errors.Is(queryErr, unix.EINVAL) {
			continue // a hook that this kernel does not have
		}
		if queryErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", hook, queryErr))
			continue
		}
		for _, p := range result.Programs {
			if !ours[p.ID] {
				out = append(out, program{hook, programName(p.ID)})
			}
		}
	}
	slices.SortFunc(out, byHook)
	return out, err
}

// tcPrograms lists the programs on a device, by tcx and by clsact. What the kernel does
// not tell is not there.
func tcPrograms(device string) (out []program) {
	at, err := netlink.LinkByName(device)
	if err != nil {
		return nil
	}
	for way, of := range map[string]struct {
		attach ebpf.AttachType
		parent uint32
	}{"ingress": {ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS}, "egress": {ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS}} {
		if result, err := link.QueryPrograms(link.QueryOptions{Target: at.Attrs().Index, Attach: of.attach}); err == nil {
			for _, p := range result.Programs {
				out = append(out, program{device + " " + way, programName(p.ID)})
			}
		}
		filters, err := netlink.FilterList(at, of.parent)
		if err != nil {
			continue // no clsact there
		}
		for _, f := range filters {
			if f, is := f.(*netlink.BpfFilter); is {
				out = append(out, program{device + " " + way, f.Name})
			}
		}
	}
	slices.SortFunc(out, byHook)
	return out
}

func byHook(a, b program) int { return strings.Compare(a.hook+" "+a.name, b.hook+" "+b.name) }

func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("program %d", id)
	}
	defer p.Close() // only looked at
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return fmt.Sprintf("program %d", id)
	}
	return fmt.Sprintf("%s (program %d)", info.Name, id)
}

// ours returns the programs behind the links that an agent pinned.
func ours(bpffs string) map[ebpf.ProgramID]bool {
	found := map[ebpf.ProgramID]bool{}
	_ = filepath.WalkDir(bpffs, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // what can not be read is none of ours
		}
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return nil //nolint:nilerr // a map
		}
		defer l.Close() // only looked at
		if info, err := l.Info(); err == nil {
			found[info.Program] = true
		}
		return nil
	})
	return found
}

// checkBPFFS finds out whether pins can be put into a folder that is yet to be made.
func checkBPFFS(dir string) error {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var found unix.Statfs_t
		err := unix.Statfs(at, &found)
		switch {
		case errors.Is(err, unix.ENOENT) && at != "/":
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", at, err)
		case found.Type != unix.BPF_FS_MAGIC:
			return fmt.Errorf("%s is not on a BPF file system", dir)
		case found.Flags&unix.ST_RDONLY != 0:
			return fmt.Errorf("%s is read-only", at)
		}
		return nil
	}
}

// tryPort tries to have a UDP port for itself, as a tunnel device would.
func tryPort(port uint16) error {
	conn, err := net.ListenPacket("udp4", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

// reach tries all addresses at once.
func (o *observed) reach(ctx context.Context, c Config) {
	o.gateways, o.nodes, o.ways = map[string]error{}, map[netip.Addr]error{}, map[netip.Addr]way{}
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	try := func(address string, note func(error)) {
		all.Go(func() {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", address)
			if err == nil {
				err = conn.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			note(err)
		})
	}
	for _, address := range c.Gateways {
		try(address, func(err error) { o.gateways[address] = err })
	}
	for _, ip := range c.Nodes {
		try(netip.AddrPortFrom(ip, kubeletPort).String(), func(err error) {
			if errors.Is(err, unix.ECONNREFUSED) {
				err = nil
			}
			o.nodes[ip] = err
		})
		all.Go(func() {
			w := tryUDP(ctx, netip.AddrPortFrom(ip, c.Port))
			mu.Lock()
			defer mu.Unlock()
			o.ways[ip] = w
		})
	}
	all.Wait()
}
