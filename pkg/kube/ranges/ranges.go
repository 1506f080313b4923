// Package ranges finds out where the addresses of a cluster's pods and Services
// are, from the objects of its Kubernetes API that say it. It is pure: objects
// in, ranges and where they stand out. pkg/kube reads the objects.
//
// There is no one place for it in Kubernetes: what counts is what hands out the
// addresses, which is the network plugin for pods and the API server for Services.
// So several places are asked, in an order, and the addresses that pods have
// decide between them: of two that contradict each other the one is right that holds
// the pods that there are.
package ranges

import (
	"fmt"
	"net/netip"
	"slices"
)

// Kind is what the addresses of a range are for.
type Kind string

// The kinds.
const (
	Pods     Kind = "pods"
	Services Kind = "services"
)

// Finding is what one place says.
type Finding struct {
	// Where is the place, such as "ConfigMap kube-system/kubeadm-config".
	Where  string
	Kind   Kind
	Ranges []netip.Prefix
	// Partial says that there may be more of it tomorrow: the ranges of nodes are
	// those of the nodes that there are.
	Partial bool
}

// Found is what is known of a cluster.
type Found struct {
	Pods, Services Part
	// Unread are places that could not be read, with why.
	Unread []string
}

// Part is what is known of one kind.
type Part struct {
	// Ranges are those that count, sorted, none in another; empty when no place says
	// any. From is the place.
	Ranges []netip.Prefix
	From   string
	// Partial is as in the finding.
	Partial bool
	// Observed is where the addresses are that are in use, by parts of /16 and /48: a
	// suggestion where nothing is found, and no more, since nobody says that the rest
	// of a part is this cluster's.
	Observed []netip.Prefix
	// Notes say where places contradict each other, and what to look at.
	Notes []string
}

// Decide returns what the objects say.
func Decide(o *Objects) Found {
	findings, notes := o.findings()
	out := Found{
		Pods:     decide(Pods, findings, o.pods),
		Services: decide(Services, findings, o.services),
	}
	out.Pods.Notes = append(out.Pods.Notes, notes[Pods]...)
	out.Services.Notes = append(out.Services.Notes, notes[Services]...)
	return out
}

// decide takes the first finding that holds all addresses that are in use, else the
// first that holds any, else the first.
func decide(kind Kind, all []Finding, used []netip.Addr) Part {
	findings := slices.DeleteFunc(slices.Clone(all), func(f Finding) bool { return f.Kind != kind || len(f.Ranges) == 0 })
	out := Part{Observed: Around(used)}
	if len(findings) == 0 {
		return out
	}
	best, most := 0, -1
	for i, f := range findings {
		n := 0
		for _, a := range used {
			if holds(f.Ranges, a) {
				n++
			}
		}
		switch {
		case n == len(used) && most < len(used):
			best, most = i, n
		case n > 0 && most <= 0:
			best, most = i, n
		case most < 0:
			most = n
		}
	}
	chosen := findings[best]
	out.Ranges, out.From, out.Partial = Aggregate(chosen.Ranges), chosen.Where, chosen.Partial
	out.Notes = contradictions(chosen, findings, used)
	if out.Partial {
		out.Notes = append(out.Notes, fmt.Sprintf(
			"%s are ranges of the nodes that there are, and a node that is added has another: give the whole range (perhaps %s)",
			Text(out.Ranges), Text(around(out.Ranges))))
	}
	return out
}

// contradictions says what other places say that has nothing in common with what
// counts, and which addresses are elsewhere.
func contradictions(chosen Finding, findings []Finding, used []netip.Addr) (out []string) {
	for _, f := range findings {
		if f.Where == chosen.Where {
			continue
		}
		var other []netip.Prefix
		for _, p := range f.Ranges {
			if !slices.ContainsFunc(chosen.Ranges, p.Overlaps) {
				other = append(other, p)
			}
		}
		if len(other) > 0 {
			out = append(out, fmt.Sprintf("%s says %s for %s, and %s says %s, which is taken",
				f.Where, Text(Aggregate(other)), f.Kind, chosen.Where, Text(Aggregate(chosen.Ranges))))
		}
	}
	var outside []netip.Addr
	for _, a := range used {
		if !holds(chosen.Ranges, a) {
			outside = append(outside, a)
		}
	}
	if len(outside) > 0 {
		out = append(out, fmt.Sprintf("%d of %d addresses of %s that were looked at are outside of %s that %s says: they are in %s",
			len(outside), len(used), chosen.Kind, Text(Aggregate(chosen.Ranges)), chosen.Where, Text(Around(outside))))
	}
	return out
}

// Differ returns a sentence when ranges that flags say are not those that were
// found, "" when they are, when they hold them, and when nothing was found. flag is
// where they are said.
func (p *Part) Differ(kind Kind, flag string, said []netip.Prefix) string {
	switch {
	case len(p.Ranges) == 0 && len(said) == 0 && len(p.Observed) > 0:
		return fmt.Sprintf("no place says the ranges of %s; those that there are have addresses in %s: give the range by %s", kind, Text(p.Observed), flag)
	case len(p.Ranges) == 0:
		return ""
	case len(said) == 0:
		return fmt.Sprintf("%s has %s for %s, and %s says nothing: give %s=%s", p.From, Text(p.Ranges), kind, flag, flag, List(p.Ranges))
	}
	all := Aggregate(said)
	var missing []netip.Prefix
	for _, r := range p.Ranges {
		if !slices.ContainsFunc(all, func(s netip.Prefix) bool { return contains(s, r) }) {
			missing = append(missing, r)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("%s has %s for %s, and %s says %s: %s is missing", p.From, Text(p.Ranges), kind, flag, Text(all), Text(missing))
}

// Lines returns all that there is to say, a sentence each, the ranges first.
func (f *Found) Lines() []string {
	var out []string
	for _, part := range []struct {
		kind Kind
		Part
	}{{Pods, f.Pods}, {Services, f.Services}} {
		switch {
		case len(part.Ranges) > 0:
			out = append(out, fmt.Sprintf("%s: %s (%s)", part.kind, Text(part.Ranges), part.From))
		case len(part.Observed) > 0:
			out = append(out, fmt.Sprintf("%s: not found; those that there are have addresses in %s", part.kind, Text(part.Observed)))
		default:
			out = append(out, fmt.Sprintf("%s: not found", part.kind))
		}
		out = append(out, part.Notes...)
	}
	for _, u := range f.Unread {
		out = append(out, "not read: "+u)
	}
	return out
}

func holds(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
