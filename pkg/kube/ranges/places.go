package ranges

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// findings returns what each place says, the one that counts most first: what hands
// out addresses itself, then what it is set up by, then what has been handed out.
func (o *Objects) findings() (all []Finding, notes map[Kind][]string) {
	b := &builder{notes: map[Kind][]string{Pods: o.wrong}}
	b.names(Pods, "IPPool", o.pools, false)
	o.cilium(b)
	o.flannel(b)
	o.kubeadm(b)
	o.flags(b)
	o.proxy(b)
	b.names(Pods, "CiliumNode", o.ciliumNodes, true)
	b.names(Pods, "Node", o.nodes, true)
	return b.all, b.notes
}

// builder collects findings, and what is wrong with them.
type builder struct {
	all   []Finding
	notes map[Kind][]string
}

// add adds a finding, whose ranges are several with commas or blanks.
func (b *builder) add(kind Kind, where string, partial bool, texts ...string) {
	f := Finding{Where: where, Kind: kind, Partial: partial}
	for _, text := range texts {
		for _, one := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
			p, err := netip.ParsePrefix(one)
			if err == nil {
				err = route.ValidatePrefix(p.Masked())
			}
			if err != nil {
				b.notes[kind] = append(b.notes[kind], fmt.Sprintf("%s says %q, which is no range: %v", where, one, err))
				continue
			}
			if p = p.Masked(); !slices.Contains(f.Ranges, p) {
				f.Ranges = append(f.Ranges, p)
			}
		}
	}
	if len(f.Ranges) > 0 {
		b.all = append(b.all, f)
	}
}

// names adds what objects of one kind say together.
func (b *builder) names(kind Kind, of string, objects []named, partial bool) {
	var texts, names []string
	for _, o := range objects {
		if len(o.cidrs) > 0 {
			texts = append(texts, o.cidrs...)
			names = append(names, o.name)
		}
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
	case 1, 2, 3:
		b.add(kind, of+" "+strings.Join(names, ", "), partial, texts...)
	default:
		b.add(kind, fmt.Sprintf("%d objects %s", len(names), of), partial, texts...)
	}
}

// cilium adds the ranges of Cilium, where it hands out addresses itself.
func (o *Objects) cilium(b *builder) {
	for _, where := range []string{"kube-system/cilium-config", "cilium/cilium-config"} {
		c, ok := o.configMaps[where]
		if !ok {
			continue
		}
		switch c["ipam"] {
		case "cluster-pool", "":
			v4, v6 := c["cluster-pool-ipv4-cidr"], c["cluster-pool-ipv6-cidr"]
			if c["enable-ipv4"] == "false" {
				v4 = ""
			}
			if c["enable-ipv6"] != "true" {
				v6 = ""
			}
			b.add(Pods, "ConfigMap "+where, false, v4, v6)
		case "multi-pool":
			b.names(Pods, "CiliumPodIPPool", o.ciliumPools, false)
		}
		return
	}
}

// flannel adds what flannel is set up with.
func (o *Objects) flannel(b *builder) {
	for _, where := range []string{"kube-flannel/kube-flannel-cfg", "kube-system/kube-flannel-cfg", "kube-system/canal-config"} {
		text, ok := o.configMaps[where]["net-conf.json"]
		if !ok {
			text, ok = o.configMaps[where]["net_conf.json"]
		}
		if !ok {
			continue
		}
		var c struct {
			Network     string
			IPv6Network string
			EnableIPv6  bool
			EnableIPv4  *bool
		}
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			b.notes[Pods] = append(b.notes[Pods], fmt.Sprintf("net-conf.json of ConfigMap %s does not parse: %v", where, err))
			continue
		}
		if c.EnableIPv4 != nil && !*c.EnableIPv4 {
			c.Network = ""
		}
		if !c.EnableIPv6 {
			c.IPv6Network = ""
		}
		b.add(Pods, "ConfigMap "+where, false, c.Network, c.IPv6Network)
		return
	}
}

// kubeadm adds what the cluster was made with; of Services the API server's own
// objects come first.
func (o *Objects) kubeadm(b *builder) {
	b.names(Services, "ServiceCIDR", o.serviceCIDRs, false)
	const where = "ConfigMap kube-system/kubeadm-config"
	text, ok := o.configMaps["kube-system/kubeadm-config"]["ClusterConfiguration"]
	if !ok {
		return
	}
	var c struct {
		Networking struct {
			PodSubnet     string `yaml:"podSubnet"`
			ServiceSubnet string `yaml:"serviceSubnet"`
		} `yaml:"networking"`
	}
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		b.notes[Pods] = append(b.notes[Pods], fmt.Sprintf("%s does not parse: %v", where, err))
		return
	}
	b.add(Pods, where, false, c.Networking.PodSubnet)
	b.add(Services, where, false, c.Networking.ServiceSubnet)
}

// flags adds what the control plane was started with; of several replicas that say
// the same, the first.
func (o *Objects) flags(b *builder) {
	seen := map[string]bool{}
	for _, c := range slices.Concat(o.components, o.nodeFlags) {
		for kind, names := range map[Kind][]string{Pods: {"cluster-cidr"}, Services: {"service-cluster-ip-range", "service-cidr"}} {
			text := flag(c.args, names)
			if text == "" || seen[string(kind)+text] {
				continue
			}
			seen[string(kind)+text] = true
			b.add(kind, c.where, false, text)
		}
	}
}

// flag returns the value of the first flag of those names.
func flag(args, names []string) string {
	for i, arg := range args {
		for _, name := range names {
			if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
				return value
			}
			if arg == "--"+name && i+1 < len(args) {
				return args[i+1]
			}
		}
	}
	return ""
}

// proxy adds what kube-proxy takes for the cluster's pods.
func (o *Objects) proxy(b *builder) {
	const where = "ConfigMap kube-system/kube-proxy"
	var c struct {
		ClusterCIDR string `yaml:"clusterCIDR"`
	}
	if err := yaml.Unmarshal([]byte(o.configMaps["kube-system/kube-proxy"]["config.conf"]), &c); err != nil {
		b.notes[Pods] = append(b.notes[Pods], fmt.Sprintf("%s does not parse: %v", where, err))
		return
	}
	b.add(Pods, where, false, c.ClusterCIDR)
}
