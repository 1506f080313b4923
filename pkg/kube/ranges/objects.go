package ranges

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
)

// Objects are what is known of a cluster's objects. The zero value knows none. Not
// safe for concurrent use.
type Objects struct {
	configMaps   map[string]map[string]string // by namespace/name
	serviceCIDRs []named
	nodes        []named
	nodeFlags    []component
	pools        []named // Calico's
	ciliumPools  []named
	ciliumNodes  []named
	components   []component
	pods         []netip.Addr
	services     []netip.Addr
	// wrong are objects that do not parse.
	wrong []string
}

// named is an object with the ranges that it says.
type named struct {
	name  string
	cidrs []string
}

// component is a part of the control plane, with its command line.
type component struct {
	where string
	args  []string
}

// The kinds of objects that say something.
const (
	KindConfigMap     = "ConfigMap"
	KindServiceCIDR   = "ServiceCIDR"
	KindNode          = "Node"
	KindPod           = "Pod"
	KindService       = "Service"
	KindIPPool        = "IPPool"
	KindCiliumNode    = "CiliumNode"
	KindCiliumPodPool = "CiliumPodIPPool"
)

// meta is what all objects have.
type meta struct {
	Metadata struct {
		Namespace   string            `json:"namespace"`
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
}

// Add takes an object of one of the kinds, as JSON. What it does not parse is
// noted, other kinds say nothing.
func (o *Objects) Add(kind string, text []byte) {
	add := map[string]func([]byte) error{
		KindConfigMap: o.addConfigMap, KindServiceCIDR: o.addServiceCIDR, KindNode: o.addNode, KindPod: o.addPod,
		KindService: o.addService, KindIPPool: o.addIPPool, KindCiliumNode: o.addCiliumNode, KindCiliumPodPool: o.addCiliumPool,
	}[kind]
	if add == nil {
		return
	}
	if err := add(text); err != nil {
		o.wrong = append(o.wrong, fmt.Sprintf("an object %s does not parse: %v", kind, err))
	}
}

func (o *Objects) addConfigMap(text []byte) error {
	var m struct {
		meta
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	if o.configMaps == nil {
		o.configMaps = map[string]map[string]string{}
	}
	o.configMaps[m.Metadata.Namespace+"/"+m.Metadata.Name] = m.Data
	return nil
}

func (o *Objects) addServiceCIDR(text []byte) error {
	var s struct {
		meta
		Spec struct {
			CIDRs []string `json:"cidrs"`
		} `json:"spec"`
	}
	err := json.Unmarshal(text, &s)
	o.serviceCIDRs = append(o.serviceCIDRs, named{s.Metadata.Name, s.Spec.CIDRs})
	return err
}

// nodeArgs are annotations in which distributions of one binary keep its command
// line.
func nodeArgs() []string { return []string{"k3s.io/node-args", "rke2.io/node-args"} }

func (o *Objects) addNode(text []byte) error {
	var n struct {
		meta
		Spec struct {
			PodCIDR  string   `json:"podCIDR"`
			PodCIDRs []string `json:"podCIDRs"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(text, &n); err != nil {
		return err
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	o.nodes = append(o.nodes, named{n.Metadata.Name, cidrs})
	for _, annotation := range nodeArgs() {
		var args []string
		if json.Unmarshal([]byte(n.Metadata.Annotations[annotation]), &args) == nil {
			o.nodeFlags = append(o.nodeFlags, component{"annotation " + annotation + " of Node " + n.Metadata.Name, args})
		}
	}
	return nil
}

// container is one of a pod.
type container struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	Args    []string `json:"args"`
}

// line is the container's command line, as far as the pod says it.
func (c container) line() []string { return slices.Concat(c.Command, c.Args) }

// commandOf returns the command line of a part of the control plane: that of the
// container that runs its program, wherever it stands among others. Without a command,
// which the image may have, it is the container of that name; else the one whose program
// starts it; else the only one. It is nil for pods that are no such part.
func commandOf(program string, containers []container) []string {
	if program != "kube-controller-manager" && program != "kube-apiserver" {
		return nil
	}
	is := func(word string) bool { return path.Base(word) == program }
	for _, fits := range []func(container) bool{
		func(c container) bool { return len(c.Command) > 0 && is(c.Command[0]) },
		func(c container) bool { return c.Name == program },
		func(c container) bool { return slices.ContainsFunc(c.line(), is) },
		func(container) bool { return len(containers) == 1 },
	} {
		if at := slices.IndexFunc(containers, fits); at >= 0 {
			return containers[at].line()
		}
	}
	return nil
}

func (o *Objects) addPod(text []byte) error {
	var p struct {
		meta
		Spec struct {
			HostNetwork bool        `json:"hostNetwork"`
			Containers  []container `json:"containers"`
		} `json:"spec"`
		Status struct {
			Phase  string `json:"phase"`
			PodIPs []struct {
				IP string `json:"ip"`
			} `json:"podIPs"`
		} `json:"status"`
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	if p.Metadata.Namespace == "kube-system" {
		if args := commandOf(p.Metadata.Labels["component"], p.Spec.Containers); args != nil {
			o.components = append(o.components, component{"flags of Pod kube-system/" + p.Metadata.Name, args})
		}
	}
	if p.Spec.HostNetwork || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return nil // the node's address, or one that is another pod's by now
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			o.pods = append(o.pods, a.Unmap())
		}
	}
	return nil
}

func (o *Objects) addService(text []byte) error {
	var s struct {
		Spec struct {
			ClusterIPs []string `json:"clusterIPs"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil { // not "None"
			o.services = append(o.services, a.Unmap())
		}
	}
	return nil
}

func (o *Objects) addIPPool(text []byte) error {
	var p struct {
		meta
		Spec struct {
			CIDR        string   `json:"cidr"`
			Disabled    bool     `json:"disabled"`
			AllowedUses []string `json:"allowedUses"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	// A disabled pool gives no new addresses; pods that have one of it keep that, which
	// shows by the pods. Without a use it is for workloads and tunnels.
	if !p.Spec.Disabled && (len(p.Spec.AllowedUses) == 0 || slices.Contains(p.Spec.AllowedUses, "Workload")) {
		o.pools = append(o.pools, named{p.Metadata.Name, []string{p.Spec.CIDR}})
	}
	return nil
}

func (o *Objects) addCiliumNode(text []byte) error {
	var n struct {
		meta
		Spec struct {
			IPAM struct {
				PodCIDRs []string `json:"podCIDRs"`
				Pools    struct {
					Allocated []struct {
						CIDRs []string `json:"cidrs"`
					} `json:"allocated"`
				} `json:"pools"`
			} `json:"ipam"`
		} `json:"spec"`
	}
	err := json.Unmarshal(text, &n)
	cidrs := n.Spec.IPAM.PodCIDRs
	for _, pool := range n.Spec.IPAM.Pools.Allocated {
		cidrs = append(cidrs, pool.CIDRs...)
	}
	o.ciliumNodes = append(o.ciliumNodes, named{n.Metadata.Name, cidrs})
	return err
}

func (o *Objects) addCiliumPool(text []byte) error {
	type family struct {
		CIDRs []string `json:"cidrs"`
	}
	var p struct {
		meta
		Spec struct {
			IPv4 family `json:"ipv4"`
			IPv6 family `json:"ipv6"`
		} `json:"spec"`
	}
	err := json.Unmarshal(text, &p)
	o.ciliumPools = append(o.ciliumPools, named{p.Metadata.Name, slices.Concat(p.Spec.IPv4.CIDRs, p.Spec.IPv6.CIDRs)})
	return err
}
