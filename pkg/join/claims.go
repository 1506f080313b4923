package join

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

const (
	// maxClaims bounds what a cluster may claim.
	maxClaims = 1024
	// shownRanges is how many ranges are shown to a person who can see them all elsewhere.
	shownRanges = 8
)

func protoClaims(claims []trust.Claim) []*joinpb.Claim {
	var out []*joinpb.Claim
	for _, c := range claims {
		out = append(out, &joinpb.Claim{Class: string(c.Class), Range: c.Range.String()})
	}
	return out
}

// parseClaims reads what anybody may have sent.
func parseClaims(from []*joinpb.Claim) ([]trust.Claim, error) {
	if len(from) > maxClaims {
		return nil, fmt.Errorf("%d claims, more than %d", len(from), maxClaims)
	}
	var out []trust.Claim
	for _, p := range from {
		r, err := netip.ParsePrefix(p.GetRange())
		if err != nil || len(p.GetClass()) > 16 {
			return nil, fmt.Errorf("%.100q is not a range like 10.1.0.0/16, or %.100q no class of claims", p.GetRange(), p.GetClass())
		}
		c := trust.Claim{Class: trust.Class(p.GetClass()), Range: r}
		if err := c.Validate(); err != nil {
			return nil, fmt.Errorf("claim to %.100q for %.100q: %w", p.GetRange(), p.GetClass(), err)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, trust.CompareClaims)
	return slices.Compact(out), nil
}

// held is what a cluster has: what it claims, and what it was seen to have, for pods.
func (f Facts) held() []trust.Claim {
	out := slices.Clone(f.Claims)
	for _, r := range f.Ranges {
		out = append(out, trust.Claim{Class: trust.Pods, Range: r})
	}
	return out
}

// contended returns which claims of two clusters can not both be held to, one for each
// two classes; that ranges which were seen overlap is said already with said.
func contended(a, b Facts, said bool) (out []string) {
	seen := map[[2]trust.Class]bool{{trust.Pods, trust.Pods}: said}
	look := func(mine, others []trust.Claim) {
		for _, c := range mine {
			for _, d := range others {
				if pair := [2]trust.Class{c.Class, d.Class}; c.Contends(d) && !seen[pair] {
					seen[pair] = true
					out = append(out, fmt.Sprintf("%s of %s overlaps %s of %s",
						claimText(c), a.Name, claimText(d), b.Name))
				}
			}
		}
	}
	look(a.Claims, b.held())
	look(Facts{Ranges: a.Ranges}.held(), b.Claims)
	return out
}

// outside says which ranges of our nodes others will not take, as they are outside of
// what this cluster claims; "" when none is.
func (m *Manager) outside() string {
	var claimed, left []netip.Prefix
	speaks := false
	for _, c := range m.cfg.Claims {
		speaks = speaks || c.Class == trust.Pods
		claimed = append(claimed, c.Range)
	}
	for _, r := range tidy(m.cfg.Ranges()) {
		inside := func(c netip.Prefix) bool { return c.Bits() <= r.Bits() && c.Overlaps(r) }
		if speaks && !slices.ContainsFunc(claimed, inside) {
			left = append(left, r)
		}
	}
	if len(left) == 0 {
		return ""
	}
	return fmt.Sprintf("nodes of %s have ranges outside of what it claims: %s; others take them when they approve them (`causeway peers approve %s`), or after a new join with --pod-cidr put right",
		m.cfg.Cluster.Name, rangesText(left), m.cfg.Cluster.Name)
}

// ownClaims says to what others will hold this cluster.
func (m *Manager) ownClaims() string {
	text := heldTo(m.cfg.Cluster.Name, m.cfg.Claims)
	if speaks := slices.ContainsFunc(m.cfg.Claims, func(c trust.Claim) bool { return c.Class == trust.Pods }); !speaks {
		if seen := tidy(m.cfg.Ranges()); len(seen) > 0 {
			text += fmt.Sprintf(" (its nodes have %s so far; --pod-cidr of its API server says it for good)", rangesText(seen))
		}
	}
	return text
}

// heldTo says to what a cluster is held.
func heldTo(name string, claims []trust.Claim) string {
	silent := silentOf(claims)
	first := "of " + strings.Join(silent, " and ") + " what it names first is agreed"
	switch {
	case len(claims) == 0:
		return fmt.Sprintf("%s claims no ranges: what it names first is agreed", name)
	case len(silent) == 0:
		return fmt.Sprintf("%s claims %s, and nothing else", name, claimsText(claims))
	}
	return fmt.Sprintf("%s claims %s; %s", name, claimsText(claims), first)
}

// silentOf returns the classes of which claims say nothing, so that what the cluster names
// first is agreed.
func silentOf(claims []trust.Claim) (silent []string) {
	for _, class := range trust.Classes()[:3] {
		if !slices.ContainsFunc(claims, func(c trust.Claim) bool { return c.Class == class }) {
			silent = append(silent, string(class))
		}
	}
	return silent
}

func claimText(c trust.Claim) string { return fmt.Sprintf("%s (%s)", c.Range, c.Class) }

// claimsText lists claims by class.
func claimsText(claims []trust.Claim) string {
	var parts []string
	for _, class := range trust.Classes() {
		var of []netip.Prefix
		for _, c := range claims {
			if c.Class == class {
				of = append(of, c.Range)
			}
		}
		if len(of) > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", class, rangesText(of)))
		}
	}
	return strings.Join(parts, ", ")
}

func rangesText(ranges []netip.Prefix) string {
	var out []string
	for _, r := range ranges[:min(len(ranges), shownRanges)] {
		out = append(out, r.String())
	}
	if more := len(ranges) - shownRanges; more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, " ")
}
