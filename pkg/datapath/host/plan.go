package host

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// maxProblems bounds how many problems of one kind are told apart.
const maxProblems = 50

// foreign is a route of somebody else's.
type foreign struct {
	prefix netip.Prefix
	// own says that it leads to the node itself, tunnel that it is the kernel's
	// for an address of our tunnel device, first that it counts before a wider one
	// of ours by itself, from where it stands.
	own, tunnel, first bool
	text               string // as ip route shows it
}

// plan is what our routes of one family shall be.
type plan struct {
	table int            // where they stand
	leads []netip.Prefix // into the tunnel
	// throws are parts of leads that the tables behind ours decide about.
	throws   []netip.Prefix
	problems []Problem
}

// planRoutes decides what of the wanted prefixes, which are canonical, can be
// led into the tunnel. Not what is the node's own, what somebody else routes as
// exactly or more exactly, and where tunnels themselves lead.
func planRoutes(wanted []netip.Prefix, pods []netip.Prefix, nodes []netip.Addr, others []foreign) plan {
	p := plan{}
	taken := map[netip.Prefix]bool{}
	throw := func(part netip.Prefix, silent bool) (within netip.Prefix) {
		lead, ok := enclosing(wanted, part)
		switch {
		case !ok:
			return netip.Prefix{}
		case lead == part:
			taken[lead] = true
		case !silent:
			p.throws = append(p.throws, part)
		}
		return lead
	}
	for _, node := range nodes {
		if lead := throw(hostPrefix(node), false); lead == hostPrefix(node) {
			p.problem(Problem{
				What:  "a peer's node is also in a peer's pod range of one address: it is reached past the tunnel",
				Where: lead.String(), Do: "take the address of a node out of the peer's pods",
			})
		}
	}
	for _, o := range others {
		lead := throw(o.prefix, o.first)
		if !lead.IsValid() || o.tunnel {
			continue
		}
		p.problem(contradiction(lead, o))
	}
	pods = route.Canonical(pods)
	for _, local := range pods {
		if lead := throw(local, false); lead.IsValid() {
			p.problem(overlap(lead, local))
		}
	}
	for _, lead := range wanted {
		if local, ok := enclosing(pods, lead); ok && local != lead {
			taken[lead] = true
			p.problem(overlap(lead, local))
		}
	}
	p.leads = slices.DeleteFunc(slices.Clone(wanted), func(lead netip.Prefix) bool { return taken[lead] })
	p.throws = route.Canonical(p.throws)
	return p
}

// enclosing returns the one of the canonical prefixes that holds all of part.
func enclosing(prefixes []netip.Prefix, part netip.Prefix) (netip.Prefix, bool) {
	found, ok := route.Find(prefixes, part.Addr())
	return found, ok && found.Bits() <= part.Bits()
}

func (p *plan) problem(problem Problem) {
	if len(p.problems) < maxProblems {
		p.problems = append(p.problems, problem)
	}
}

func contradiction(lead netip.Prefix, o foreign) Problem {
	if o.own {
		return Problem{
			What:  "an address of this node is in a peer's range: it stays this node's",
			Where: fmt.Sprintf("%s in %s", o.text, lead),
			Do:    "give the clusters ranges that do not overlap",
		}
	}
	return Problem{
		What:  "somebody else's route stands in a peer's range: it stays in effect, and these packets do not enter the tunnel",
		Where: fmt.Sprintf("%s in %s", o.text, lead),
		Do:    "if the peer shall be reached there, remove that route; if it is reached by that route, use the mode native",
	}
}

func overlap(lead, local netip.Prefix) Problem {
	return Problem{
		What:  "a peer's range overlaps one of our own pods: ours stays ours",
		Where: fmt.Sprintf("%s and our %s", lead, local),
		Do:    "give the clusters pod ranges that do not overlap",
	}
}

// leading returns what of d goes through the tunnel, for one family, in
// canonical form.
func (d *Desired) leading(v6 bool) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, r := range d.Routes {
		if r.Mode == route.VXLAN && r.Prefix.Addr().Is6() == v6 {
			prefixes = append(prefixes, r.Prefix)
		}
	}
	for _, p := range d.MeshRanges {
		if p.Addr().Is6() == v6 {
			prefixes = append(prefixes, p)
		}
	}
	return route.Canonical(prefixes)
}

// native returns what of d the network routes already, for one family.
func (d *Desired) native(v6 bool) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, r := range d.Routes {
		if r.Mode == route.Native && r.Prefix.Addr().Is6() == v6 {
			prefixes = append(prefixes, r.Prefix)
		}
	}
	return route.Canonical(prefixes)
}

// local returns the sources that may stand on packets to peers, for one family:
// this cluster's pods and this node's mesh address.
func (d *Desired) local(v6 bool) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, p := range d.LocalPods {
		if p.Addr().Is6() == v6 {
			prefixes = append(prefixes, p)
		}
	}
	if a := route.Family(d.Mesh, v6); a.IsValid() {
		prefixes = append(prefixes, hostPrefix(a))
	}
	return route.Canonical(prefixes)
}

// validate returns what is wrong with d.
func (d *Desired) validate() error {
	seen := map[bool]bool{}
	for _, a := range d.Mesh {
		if err := route.ValidateAddr(a); err != nil {
			return fmt.Errorf("mesh %w: %w", err, ErrDesired)
		}
		if seen[a.Is6()] {
			return fmt.Errorf("mesh addresses %v, more than one a family: %w", d.Mesh, ErrDesired)
		}
		seen[a.Is6()] = true
	}
	for _, r := range d.Routes {
		if err := route.ValidatePrefix(r.Prefix); err != nil {
			return fmt.Errorf("route: %w: %w", err, ErrDesired)
		}
		if _, err := route.ParseMode(string(r.Mode)); err != nil {
			return fmt.Errorf("route %s: %w: %w", r.Prefix, err, ErrDesired)
		}
	}
	for _, p := range slices.Concat(d.MeshRanges, d.LocalPods) {
		if err := route.ValidatePrefix(p); err != nil {
			return fmt.Errorf("%w: %w", err, ErrDesired)
		}
	}
	if d.MTU < 0 {
		return fmt.Errorf("MTU %d: %w", d.MTU, ErrDesired)
	}
	return nil
}

// equal reports whether d and e say the same.
func (d *Desired) equal(e *Desired) bool {
	return d.Port == e.Port && d.MTU == e.MTU && slices.Equal(d.Nodes, e.Nodes) && slices.Equal(d.Mesh, e.Mesh) &&
		slices.Equal(d.MeshRanges, e.MeshRanges) && slices.Equal(d.Routes, e.Routes) && slices.Equal(d.LocalPods, e.LocalPods)
}
