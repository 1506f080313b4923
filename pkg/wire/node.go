package wire

import (
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/node"
)

// nodeJSON has Go's field names as keys; no field is ever left out.
type nodeJSON struct {
	Name                    string
	Cluster                 string
	IPAddresses             []nodeAddressJSON
	IPv4AllocCIDR           *cidrJSON
	IPv4SecondaryAllocCIDRs []*cidrJSON
	IPv6AllocCIDR           *cidrJSON
	IPv6SecondaryAllocCIDRs []*cidrJSON
	IPv4HealthIP            string
	IPv6HealthIP            string
	IPv4IngressIP           string
	IPv6IngressIP           string
	ClusterID               cluster.ID
	Source                  string
	EncryptionKey           uint8
	Labels                  map[string]string
	Annotations             map[string]string
	WireguardPubKey         string
	BootID                  string
}

type nodeAddressJSON struct {
	Type string
	IP   string
}

type cidrJSON struct {
	IP   string
	Mask []byte
}

// EncodeNode returns the value of a node.
func EncodeNode(n *node.Node) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, encodeError(Nodes, n.Name, err) }
	if err := checkNode(n); err != nil {
		return fail(err)
	}
	v := nodeJSON{
		Name:            n.Name,
		Cluster:         n.Cluster,
		ClusterID:       n.ClusterID,
		Source:          n.Source,
		EncryptionKey:   n.EncryptionKey,
		Labels:          emptyToNil(n.Labels),
		Annotations:     emptyToNil(n.Annotations),
		WireguardPubKey: n.WireguardKey,
		BootID:          n.BootID,
	}
	for _, a := range n.Addresses {
		v.IPAddresses = append(v.IPAddresses, nodeAddressJSON{Type: string(a.Type), IP: a.IP.String()})
	}
	v.IPv4AllocCIDR, v.IPv4SecondaryAllocCIDRs = cidrsOf(n.PodCIDRs, false)
	v.IPv6AllocCIDR, v.IPv6SecondaryAllocCIDRs = cidrsOf(n.PodCIDRs, true)
	v.IPv4HealthIP, v.IPv6HealthIP = pairOf(n.HealthIPs)
	v.IPv4IngressIP, v.IPv6IngressIP = pairOf(n.IngressIPs)
	value, err := marshal(v, MaxNodeBytes)
	if err != nil {
		return fail(err)
	}
	return value, nil
}

// DecodeNode returns the node that stands at key.
func (l Layout) DecodeNode(key string, value []byte) (*node.Node, error) {
	name, err := l.ParseNodeKey(key)
	if err != nil {
		return nil, err
	}
	var v nodeJSON
	if err := unmarshal(value, &v, MaxNodeBytes); err != nil {
		return nil, decodeError(key, err)
	}
	if v.Cluster != l.Cluster {
		return nil, decodeError(key, fmt.Errorf("%w: %q", ErrWrongCluster, clip(v.Cluster)))
	}
	if v.Name != name {
		return nil, decodeError(key, fmt.Errorf("%w: node %q", ErrMismatch, clip(v.Name)))
	}
	n, err := v.node()
	if err != nil {
		return nil, decodeError(key, err)
	}
	return n, nil
}

func (v *nodeJSON) node() (*node.Node, error) {
	n := &node.Node{
		Cluster:       v.Cluster,
		ClusterID:     v.ClusterID,
		Name:          v.Name,
		Labels:        emptyToNil(v.Labels),
		Annotations:   emptyToNil(v.Annotations),
		WireguardKey:  v.WireguardPubKey,
		BootID:        v.BootID,
		Source:        v.Source,
		EncryptionKey: v.EncryptionKey,
	}
	for _, a := range v.IPAddresses {
		ip, err := parseIP(a.IP)
		if err != nil {
			return nil, err
		}
		n.Addresses = append(n.Addresses, node.Address{Type: node.AddressType(a.Type), IP: ip})
	}
	var err error
	if n.PodCIDRs, err = v.podCIDRs(); err != nil {
		return nil, err
	}
	if n.HealthIPs, err = parsePair(v.IPv4HealthIP, v.IPv6HealthIP); err != nil {
		return nil, err
	}
	if n.IngressIPs, err = parsePair(v.IPv4IngressIP, v.IPv6IngressIP); err != nil {
		return nil, err
	}
	return n, checkNode(n)
}

// podCIDRs returns the first range of each family, IPv4 before IPv6, and then
// the others in the same order.
func (v *nodeJSON) podCIDRs() ([]netip.Prefix, error) {
	if v.IPv4AllocCIDR == nil && len(v.IPv4SecondaryAllocCIDRs) > 0 ||
		v.IPv6AllocCIDR == nil && len(v.IPv6SecondaryAllocCIDRs) > 0 {
		return nil, malformed("secondary pod ranges without a first one")
	}
	var prefixes []netip.Prefix
	add := func(c *cidrJSON, v6 bool) error {
		if c == nil {
			return malformed("a pod range is null")
		}
		prefix, err := c.prefix()
		if err == nil && prefix.Addr().Is6() != v6 {
			err = malformed("pod range %s is of the other family", prefix)
		}
		prefixes = append(prefixes, prefix)
		return err
	}
	for _, family := range []struct {
		cidrs []*cidrJSON
		v6    bool
	}{
		{firstOf(v.IPv4AllocCIDR), false},
		{firstOf(v.IPv6AllocCIDR), true},
		{v.IPv4SecondaryAllocCIDRs, false},
		{v.IPv6SecondaryAllocCIDRs, true},
	} {
		for _, c := range family.cidrs {
			if err := add(c, family.v6); err != nil {
				return nil, err
			}
		}
	}
	return prefixes, nil
}

func firstOf(c *cidrJSON) []*cidrJSON {
	if c == nil {
		return nil
	}
	return []*cidrJSON{c}
}

func (c *cidrJSON) prefix() (netip.Prefix, error) {
	ip, err := parseIP(c.IP)
	if err != nil {
		return netip.Prefix{}, err
	}
	return withMask(ip, c.Mask)
}

// withMask makes a range of an address and a netmask in network order.
func withMask(ip netip.Addr, mask []byte) (netip.Prefix, error) {
	ones := 0
	for _, b := range mask {
		ones += bits.OnesCount8(b)
	}
	prefix := netip.PrefixFrom(ip, ones)
	if len(mask)*8 != ip.BitLen() || string(netmask(prefix)) != string(mask) {
		return netip.Prefix{}, malformed("netmask %x of %s", mask, ip)
	}
	return prefix, checkPrefix(prefix)
}

// netmask returns the mask of a range in network order.
func netmask(prefix netip.Prefix) []byte {
	mask := make([]byte, prefix.Addr().BitLen()/8)
	for i := range mask {
		ones := min(max(prefix.Bits()-8*i, 0), 8)
		mask[i] = byte(uint16(0xff00) >> ones)
	}
	return mask
}

// cidrsOf returns the first range of a family and the rest.
func cidrsOf(prefixes []netip.Prefix, v6 bool) (first *cidrJSON, rest []*cidrJSON) {
	for _, p := range prefixes {
		if p.Addr().Is6() != v6 {
			continue
		}
		c := &cidrJSON{IP: p.Addr().String(), Mask: netmask(p)}
		if first == nil {
			first = c
		} else {
			rest = append(rest, c)
		}
	}
	return first, rest
}

// pairOf returns the address of each family or "".
func pairOf(ips []netip.Addr) (v4, v6 string) {
	for _, ip := range ips {
		if ip.Is4() {
			v4 = ip.String()
		} else {
			v6 = ip.String()
		}
	}
	return v4, v6
}

func parsePair(v4, v6 string) ([]netip.Addr, error) {
	var ips []netip.Addr
	for i, text := range []string{v4, v6} {
		ip, err := parseOptionalIP(text)
		if err != nil {
			return nil, err
		}
		if !ip.IsValid() {
			continue
		}
		if ip.Is6() != (i == 1) {
			return nil, malformed("address %s stands where the other family belongs", ip)
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

func checkNode(n *node.Node) error {
	if err := checkCluster(n.Cluster, n.ClusterID); err != nil {
		return err
	}
	if err := checkName("node", n.Name); err != nil {
		return err
	}
	for _, a := range n.Addresses {
		if err := checkIP(a.IP); err != nil {
			return err
		}
		if err := checkText("address type", string(a.Type)); err != nil {
			return err
		}
	}
	for _, p := range n.PodCIDRs {
		if err := checkPrefix(p); err != nil {
			return err
		}
	}
	if err := checkPair("health", n.HealthIPs); err != nil {
		return err
	}
	if err := checkPair("ingress", n.IngressIPs); err != nil {
		return err
	}
	if err := checkMap("labels", n.Labels); err != nil {
		return err
	}
	if err := checkMap("annotations", n.Annotations); err != nil {
		return err
	}
	return checkTexts([2]string{"WireGuard key", n.WireguardKey}, [2]string{"boot id", n.BootID}, [2]string{"source", n.Source})
}

// checkPair allows one address a family.
func checkPair(what string, ips []netip.Addr) error {
	for _, ip := range ips {
		if err := checkIP(ip); err != nil {
			return err
		}
	}
	if len(ips) > 2 || len(ips) == 2 && ips[0].Is4() == ips[1].Is4() {
		return malformed("more than one %s address of a family", what)
	}
	return nil
}
