package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// PodSpec says what a pod has.
type PodSpec struct {
	Namespace string
	Name      string
	Node      string
	IPs       []netip.Addr
	// HostNetwork says that the pod is in its node's network namespace; its IPs are
	// the node's.
	HostNetwork bool
	// TCP and UDP are the ports that its workload answers on; sorted.
	TCP []int
	UDP []int
}

// Pod is a network namespace on a node, or the node's own, with a running echo
// workload.
type Pod struct {
	*Place
	PodSpec
	On *Node
	// Echo is the workload.
	Echo *Process

	device string // the node's end of its wire
}

// gateway4 and gateway6 are what every pod sends to: its node's end of the wire.
func gateway4() netip.Prefix { return netip.MustParsePrefix("169.254.1.1/32") }
func gateway6() netip.Prefix { return netip.MustParsePrefix("fe80::1/64") }

// AddPod makes a pod and starts its workload; it answers when AddPod returns.
func (n *Node) AddPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	name := n.Cluster.Name + "/" + spec.Namespace + "/" + spec.Name
	group := filepath.Join(n.CgroupRoot(), "pods", fileName(spec.Namespace, spec.Name))
	pod, err := n.attach(ctx, name, group, spec)
	if err != nil {
		return nil, fmt.Errorf("make pod %s: %w", name, err)
	}
	pod.Echo, err = pod.Start(ctx, pod.workload())
	if err != nil {
		return nil, errors.Join(err, pod.Remove(ctx))
	}
	return pod, nil
}

func (n *Node) attach(ctx context.Context, name, group string, spec PodSpec) (*Pod, error) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	if n.lab.closed {
		return nil, errors.New("the lab is closed")
	}
	pod := &Pod{PodSpec: spec, On: n, device: fmt.Sprintf("p%d", n.nextID)}
	pod.PodSpec.Node = n.Name
	n.nextID++
	var err error
	if spec.HostNetwork {
		pod.Place, err = n.lab.newPlaceIn(n.space, name, group)
	} else {
		pod.Place, err = n.lab.newPlace(name, group)
	}
	if err != nil {
		return nil, err
	}
	if err := pod.connect(ctx); err != nil {
		return nil, errors.Join(err, pod.closeSpace(), pod.removeSpace())
	}
	n.pods = append(n.pods, pod)
	return pod, nil
}

// connect gives the pod its wire, its node the ways to it, and a routed
// cluster's other nodes, too.
func (p *Pod) connect(ctx context.Context) error {
	network := p.On.Cluster.Network
	if p.HostNetwork {
		return nil
	}
	wire := func(context.Context) error { return p.wire(network.podMTU()) }
	if network.Plugin != "" {
		wire = func(ctx context.Context) error { return p.plug(ctx, "ADD") }
	}
	if err := wire(ctx); err != nil {
		return err
	}
	if network.Kind == Routed {
		return p.On.admit(p.IPs)
	}
	return nil
}

// closeSpace and removeSpace give up the pod's namespace, unless it is the node's.
func (p *Pod) closeSpace() error {
	if p.HostNetwork {
		return nil
	}
	return p.space.Close()
}

func (p *Pod) removeSpace() error {
	if p.HostNetwork {
		return nil
	}
	return netspace.Remove(p.space.Path())
}

// wire is the lab's own, without a plugin.
func (p *Pod) wire(mtu int) error {
	node := p.On.space
	if err := node.AddPair(p.device, p.space, uplinkDevice); err != nil {
		return err
	}
	err := errors.Join(node.AddAddress(p.device, gateway4()), node.AddAddress(p.device, gateway6()))
	if mtu != defaultMTU {
		err = errors.Join(err, node.SetMTU(p.device, mtu), p.space.SetMTU(uplinkDevice, mtu))
	}
	if err != nil {
		return err
	}
	for _, ip := range p.IPs {
		if err := p.connectAddress(ip); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pod) connectAddress(ip netip.Addr) error {
	own := single(ip)
	if err := p.space.AddAddress(uplinkDevice, own); err != nil {
		return err
	}
	out := netspace.Route{To: all4(), Via: gateway4().Addr(), Device: uplinkDevice}
	if ip.Is6() {
		out = netspace.Route{To: all6(), Via: gateway6().Addr(), Device: uplinkDevice}
	}
	if err := p.space.AddRoute(out); err != nil {
		return err
	}
	return p.route(ip)
}

// route makes the node lead an address to the pod.
func (p *Pod) route(ip netip.Addr) error {
	return p.On.space.AddRoute(netspace.Route{To: single(ip), Device: p.device, From: p.On.IP(ip.Is6())})
}

// workload is the command that answers for the pod. One without ports gets one
// that no Service names, so that it is a living process like the others.
func (p *Pod) workload() Command {
	args := []string{
		"serve", "--cluster", p.On.Cluster.Name, "--node", p.On.Name,
		"--namespace", p.Namespace, "--pod", p.Name,
	}
	tcp := p.TCP
	if len(p.TCP)+len(p.UDP) == 0 {
		tcp = []int{8080}
	}
	if len(tcp) > 0 {
		args = append(args, "--tcp", commaList(tcp))
	}
	if len(p.UDP) > 0 {
		args = append(args, "--udp", commaList(p.UDP))
	}
	return Command{Name: "echo", Path: p.lab.binary("echo"), Args: args, Ready: true}
}

// Remove ends the pod's processes and takes its namespace away. Clients see its
// connections reset or go silent, as with a pod that is killed.
func (p *Pod) Remove(ctx context.Context) error {
	if err := removeGroup(ctx, p.group); err != nil {
		return fmt.Errorf("remove pod %s: %w", p, err)
	}
	for _, process := range p.lab.Processes() {
		if process.place != p.Place {
			continue
		}
		select {
		case <-process.Done(): // collected: nobody sees it run any more
		case <-ctx.Done():
			return fmt.Errorf("remove pod %s: %w", p, ctx.Err())
		}
	}
	if !p.forget() {
		return nil
	}
	if err := p.unplug(ctx); err != nil {
		return fmt.Errorf("remove pod %s: %w", p, err)
	}
	return nil
}

// forget reports whether the pod was still known.
func (p *Pod) forget() bool {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	if p.lab.closed || !slices.Contains(p.On.pods, p) {
		return false
	}
	p.On.pods = slices.DeleteFunc(p.On.pods, func(other *Pod) bool { return other == p })
	for process := range p.lab.processes {
		if process.place == p.Place {
			delete(p.lab.processes, process)
		}
	}
	return true
}

// is reports whether spec describes the pod as it stands.
func (p *Pod) is(spec PodSpec) bool {
	return p.Namespace == spec.Namespace && p.Name == spec.Name && p.PodSpec.Node == spec.Node && p.HostNetwork == spec.HostNetwork &&
		slices.Equal(p.IPs, spec.IPs) && slices.Equal(p.TCP, spec.TCP) && slices.Equal(p.UDP, spec.UDP)
}

func commaList(numbers []int) string {
	var fields []string
	for _, n := range numbers {
		fields = append(fields, strconv.Itoa(n))
	}
	return strings.Join(fields, ",")
}
