package host

import "net/netip"

// around returns the single addresses of one family that are reached past the
// tunnel, though they are in what leads into it: the nodes that tunnels lead to,
// and addresses of peers that the network is tried with.
func (d *Desired) around(v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, a := range d.Nodes {
		if a.Is6() == v6 {
			out = append(out, a)
		}
	}
	for _, p := range d.native(v6) {
		if p.IsSingleIP() {
			out = append(out, p.Addr())
		}
	}
	return out
}
