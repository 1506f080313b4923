package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
)

// The CNI plugins that can wire pods, and where Debian's
// containernetworking-plugins puts them.
const (
	pluginPTP    = "ptp"
	pluginBridge = "bridge"
	pluginDir    = "/usr/lib/cni"
)

// ErrNoPlugins is returned where the CNI plugins are not installed.
var ErrNoPlugins = errors.New("no CNI plugins in " + pluginDir + ": install containernetworking-plugins and iptables")

// HavePlugins returns nil where pods can be wired by real CNI plugins.
func HavePlugins() error {
	for _, name := range []string{pluginPTP, pluginBridge, "static"} {
		if _, err := os.Stat(filepath.Join(pluginDir, name)); err != nil {
			return fmt.Errorf("%w (%w)", ErrNoPlugins, err)
		}
	}
	return nil
}

// pluginConfig is what a plugin reads. Addresses are the manifest's: static
// keeps nothing on the machine, as host-local would.
type pluginConfig struct {
	CNIVersion string     `json:"cniVersion"`
	Name       string     `json:"name"`
	Type       string     `json:"type"`
	MTU        int        `json:"mtu"`
	IPMasq     bool       `json:"ipMasq"`
	IPAM       pluginIPAM `json:"ipam"`
	// Bridge and IsGateway are the bridge plugin's alone.
	Bridge    string `json:"bridge,omitempty"`
	IsGateway bool   `json:"isGateway,omitempty"`
}

type pluginIPAM struct {
	Type      string          `json:"type"`
	Addresses []pluginAddress `json:"addresses"`
	Routes    []pluginRoute   `json:"routes"`
}

type pluginAddress struct {
	Address string `json:"address"`
	Gateway string `json:"gateway"`
}

type pluginRoute struct {
	To string `json:"dst"`
}

// pluginConfig is that of one pod: a plugin takes the rest of the pod's prefix
// for its neighbours, and the prefix' first address for the node's.
func (p *Pod) pluginConfig() (pluginConfig, error) {
	network := p.On.Cluster.Network
	config := pluginConfig{
		CNIVersion: "1.0.0", Name: "lab", Type: network.Plugin, MTU: network.podMTU(), IPMasq: true,
		IPAM: pluginIPAM{Type: "static"},
	}
	if network.Plugin == pluginBridge {
		config.Bridge, config.IsGateway = "cni0", true
	}
	for _, ip := range p.IPs {
		prefix, ok := p.On.rangeOf(ip)
		if !ok {
			return config, fmt.Errorf("%s is in none of the node's pod ranges, which a plugin needs", ip)
		}
		config.IPAM.Addresses = append(config.IPAM.Addresses, pluginAddress{
			Address: netip.PrefixFrom(ip, prefix.Bits()).String(), Gateway: prefix.Addr().Next().String(),
		})
		out := all4()
		if ip.Is6() {
			out = all6()
		}
		config.IPAM.Routes = append(config.IPAM.Routes, pluginRoute{To: out.String()})
	}
	return config, nil
}

func (n *Node) rangeOf(ip netip.Addr) (netip.Prefix, bool) {
	for _, r := range n.PodCIDRs {
		if r.Contains(ip) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// plug has the cluster's plugin wire the pod ("ADD") or unwire it ("DEL"), as a
// process of the node.
func (p *Pod) plug(ctx context.Context, verb string) error {
	if err := HavePlugins(); err != nil {
		return err
	}
	config, err := p.pluginConfig()
	if err != nil {
		return err
	}
	input, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("write a plugin's config: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(pluginDir, config.Type))
	var output bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &output, &output
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+fileName(p.lab.id, p.name),
		"CNI_NETNS="+p.space.Path(), "CNI_IFNAME="+uplinkDevice, "CNI_PATH="+pluginDir)
	err = p.On.spawn(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("plugin %s %s: %w: %s", config.Type, verb, err, output.Bytes())
	}
	return nil
}

// unplug takes the pod's wire away.
func (p *Pod) unplug(ctx context.Context) error {
	if p.HostNetwork {
		return nil
	}
	var errs []error
	for _, rule := range p.On.podRules(p.IPs) {
		errs = append(errs, p.On.space.DeleteRule(rule))
	}
	if p.On.Cluster.Network.Plugin != "" {
		errs = append(errs, p.plug(ctx, "DEL"))
	} else {
		errs = append(errs, p.On.space.Delete(p.device))
	}
	return errors.Join(append(errs, p.closeSpace(), p.removeSpace())...)
}
