package preflight

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
)

// leastMTU is what the network between nodes has to carry for IPv6 in a tunnel, in
// bytes: the least that IPv6 asks of a link, and the headers of a tunnel over IPv6.
const leastMTU = 1350

// judge says what facts mean, in an order that does not depend on them.
func judge(c Config, o observed) []Finding {
	var out []Finding
	for _, part := range [][]Finding{o.kernel(), o.places(c), o.others(), o.tunnel(c), o.forwarding(), o.away(c)} {
		out = append(out, part...)
	}
	return out
}

func (o *observed) kernel() []Finding {
	var out []Finding
	hooks := Finding{"kernel", Fine, "Linux " + o.release + " has all socket hooks", ""}
	switch {
	case o.lockdown == "confidentiality":
		hooks = Finding{"kernel", Fail, "the kernel is locked down (confidentiality), which forbids eBPF to read", "boot with lockdown=integrity or none"}
	case errors.Is(o.sockets, datapath.ErrKernel):
		hooks = Finding{"kernel", Fail, fmt.Sprintf("Linux %s: %v", o.release, o.sockets), "run Linux 5.10 or later on this node"}
	case o.sockets != nil:
		hooks = Finding{"kernel", Fail, o.sockets.Error(), "give the pod the agent's capabilities (BPF, PERFMON, NET_ADMIN), or run it as root"}
	}
	out = append(out, hooks)
	switch {
	case o.packets == nil:
		out = append(out, Finding{"packets", Fine, "programs on the tunnel device are attached by " + string(o.method), ""})
	case errors.Is(o.packets, packet.ErrKernel):
		out = append(out, Finding{
			"packets", Limit, fmt.Sprintf("no tunnels to other clusters: %v", o.packets),
			"run Linux 6.0 or later, or let the network route pods' addresses between the clusters (no --mesh-cidr)",
		})
	case o.sockets == nil:
		out = append(out, Finding{"packets", Limit, fmt.Sprintf("no tunnels to other clusters: %v", o.packets), "give the pod the agent's capabilities"})
	}
	return out
}

func (o *observed) places(c Config) []Finding {
	group := Finding{"cgroup", Fine, "the host's cgroup v2 root is " + o.cgroup, ""}
	if o.cgroupErr != nil {
		group = Finding{"cgroup", Fail, o.cgroupErr.Error(), "mount a cgroup v2 hierarchy on the node (mount -t cgroup2 none /sys/fs/cgroup/unified will do beside version 1)"}
	}
	pins := Finding{"bpffs", Fine, c.BPFFS + " is on a BPF file system", ""}
	if o.bpffs != nil {
		pins = Finding{"bpffs", Fail, o.bpffs.Error(), "mount -t bpf bpf /sys/fs/bpf on the node"}
	}
	return []Finding{group, pins}
}

// others are programs that somebody has at the same hooks. They run one after the
// other, so what another one translates first is no global service for us.
func (o *observed) others() []Finding {
	var out []Finding
	if len(o.uplinks) > 0 {
		out = append(out, Finding{
			"tc", Note, "others have tc programs on the node's uplinks: " + listed(names(o.uplinks)),
			"if one of them drops what it does not know, have it let the tunnels' UDP port pass; causeway diagnose tells once agents run",
		})
	}
	if o.queryErr != nil {
		out = append(out, Finding{"programs", Note, "other programs at the socket hooks can not be listed: " + o.queryErr.Error(), ""})
	}
	if len(o.programs) == 0 {
		if o.queryErr == nil && o.cgroupErr == nil {
			out = append(out, Finding{"programs", Fine, "nobody else has programs at the socket hooks", ""})
		}
		return out
	}
	return append(out, Finding{
		"programs", Note, "others have programs at the socket hooks: " + listed(names(o.programs)),
		"if one of them translates Service addresses (a CNI in the place of kube-proxy), turn that off for global services, or keep to services that it does not know",
	})
}

func names(programs []program) (out []string) {
	for _, p := range programs {
		out = append(out, p.hook+" "+p.name)
	}
	return out
}

func (o *observed) tunnel(c Config) []Finding {
	port := Finding{"port", Fine, fmt.Sprintf("UDP port %d is free", c.Port), ""}
	if o.port != nil {
		port = Finding{"port", Limit, fmt.Sprintf("UDP port %d for tunnels: %v", c.Port, o.port), "end what has it, or choose another --mesh-port, the same on all nodes of all clusters"}
		if errors.Is(o.port, unix.EADDRINUSE) && !slices.Contains(slices.Collect(maps.Values(o.network.Tunnels)), int(c.Port)) && o.networkErr == nil {
			port.Do += "; if an agent runs here already, this is its own"
		}
	}
	for name, used := range o.network.Tunnels {
		if used == int(c.Port) {
			port = Finding{"port", Limit, fmt.Sprintf("VXLAN device %s has UDP port %d", name, used), "choose another --mesh-port, the same on all nodes of all clusters"}
		}
	}
	out := []Finding{port}
	for _, u := range slices.SortedFunc(slices.Values(o.network.Uplinks), func(a, b host.Uplink) int { return cmp.Compare(a.Name, b.Name) }) {
		f := Finding{"mtu", Fine, fmt.Sprintf("%s carries %d bytes, tunnels over it %d", u.Name, u.MTU, u.MTU-50), ""}
		if u.MTU < leastMTU {
			f = Finding{"mtu", Limit, fmt.Sprintf("%s carries %d bytes: a tunnel over it has no IPv6", u.Name, u.MTU), fmt.Sprintf("raise its MTU to %d or more, or give no IPv6 range in --mesh-cidr", leastMTU)}
		}
		out = append(out, f)
	}
	return out
}

func (o *observed) forwarding() []Finding {
	if o.networkErr != nil {
		return []Finding{{"network", Note, "the node's network can not be looked at: " + o.networkErr.Error(), "give the pod NET_ADMIN and the node's network"}}
	}
	n := o.network
	out := []Finding{{"forwarding", Fine, "IPv4 is forwarded", ""}}
	if !n.Forward4 && !n.Forward6 {
		out[0] = Finding{"forwarding", Limit, "the node forwards no packets, so its pods reach no other node", "set net.ipv4.ip_forward (net.ipv6.conf.all.forwarding) to 1"}
	} else if !n.Forward4 {
		out[0].What = "IPv6 is forwarded"
	}
	if len(n.Drops) > 0 {
		out = append(out, Finding{"firewall", Note, "chains that forward nothing by policy: " + listed(n.Drops) + "; the agent has them accept what goes through its tunnels", ""})
	}
	if n.Legacy {
		out = append(out, Finding{
			"firewall", Note, "the old iptables has a filter table, which only its own program can look into",
			"if its FORWARD policy is DROP: iptables-legacy -A FORWARD -i mesh0 -j ACCEPT, and the same with -o",
		})
	}
	if len(n.Masquerades) > 0 {
		out = append(out, Finding{"masquerade", Note, "packets get another source in " + listed(n.Masquerades) + "; those through our tunnels keep theirs", ""})
	}
	source := Finding{"rp_filter", Fine, "packets are taken from any device that the node has (the tunnel's own setting is loose)", ""}
	if n.StrictSource && len(n.Uplinks) > 1 {
		source = Finding{
			"rp_filter", Note, "net.ipv4.conf.all.rp_filter is 1 and there are several uplinks: what comes by another one than the way back is dropped, tunnels included",
			"set net.ipv4.conf.all.rp_filter to 2 where the ways differ",
		}
	}
	out = append(out, source)
	return out
}

// away are the other clusters.
func (o *observed) away(c Config) []Finding {
	var out []Finding
	for _, address := range slices.Sorted(maps.Keys(o.gateways)) {
		f := Finding{"gateway", Fine, address + " answers", ""}
		if err := o.gateways[address]; err != nil {
			f = Finding{"gateway", Note, fmt.Sprintf("%s: %v", address, err), "only the node that clustermesh-apiserver runs on has to reach it: open TCP to it from there"}
		}
		out = append(out, f)
	}
	for _, ip := range slices.SortedFunc(maps.Keys(o.nodes), netip.Addr.Compare) {
		f := Finding{"node", Fine, ip.String() + " answers", ""}
		w, tried := o.ways[ip]
		switch err := o.nodes[ip]; {
		case err != nil && tried && w.small == nil: // which is what tunnels need
			f = Finding{"node", Note, fmt.Sprintf("%s, a node of another cluster, answers by UDP, and at its kubelet's port: %v", ip, err), ""}
		case err != nil:
			f = Finding{"node", Limit, fmt.Sprintf("%s, a node of another cluster: %v", ip, err), "let nodes reach each other: UDP to the mesh port, or routes to pods' addresses"}
		}
		out = append(out, f)
		if tried {
			out = append(out, w.udp(ip, c.Port, o.nodes[ip] != nil)...)
		}
	}
	return out
}

// listed names a few and counts the rest.
func listed(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
