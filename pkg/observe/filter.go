package observe

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Filter lets through the events that all of its fields allow; the zero value
// of a field allows all.
type Filter struct {
	Node      string
	Direction Direction
	Reasons   []string
	From, To  Selector
}

// Selector allows addresses of a prefix, or those of a pod; the zero value all.
type Selector struct {
	Prefix         netip.Prefix
	Namespace, Pod string
}

// FilterText is a Filter as people write it; what is empty allows all.
type FilterText struct {
	Node      string
	Direction string
	Reasons   []string
	// From and To are an address, a prefix, or namespace/pod.
	From, To string
}

// ParseFilter returns the Filter, or an error that says what can be written.
func ParseFilter(text FilterText) (Filter, error) {
	f := Filter{Node: text.Node, Direction: Direction(text.Direction), Reasons: text.Reasons}
	if f.Direction != "" && f.Direction != ToMesh && f.Direction != FromMesh {
		return Filter{}, fmt.Errorf("direction %q: give %s (leaves for another cluster) or %s (comes from one)", text.Direction, ToMesh, FromMesh)
	}
	for _, name := range text.Reasons {
		switch r, ok := ReasonNamed(name); {
		case !ok:
			return Filter{}, fmt.Errorf("there is no reason %q: causeway observe --reasons lists them", name)
		case r.Silent:
			return Filter{}, fmt.Errorf("packets of reason %q are counted and have no events: look at causeway_packet_packets_total", name)
		}
	}
	var err error
	if f.From, err = parseSelector(text.From); err != nil {
		return Filter{}, err
	}
	f.To, err = parseSelector(text.To)
	return f, err
}

// objectPattern is that of the names of Kubernetes' objects.
var objectPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

func parseSelector(text string) (Selector, error) {
	if text == "" {
		return Selector{}, nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return Selector{Prefix: p.Masked()}, nil
	}
	if ip, err := netip.ParseAddr(text); err == nil {
		return Selector{Prefix: netip.PrefixFrom(ip, ip.BitLen())}, nil
	}
	namespace, pod, ok := strings.Cut(text, "/")
	if !ok || !objectPattern.MatchString(namespace) || !objectPattern.MatchString(pod) {
		return Selector{}, fmt.Errorf("%q is no address, no prefix and no namespace/pod", text)
	}
	return Selector{Namespace: namespace, Pod: pod}, nil
}

// allows looks at what a node knows of an event.
func (f Filter) allows(e Event) bool {
	return (f.Direction == "" || f.Direction == e.Direction) &&
		(len(f.Reasons) == 0 || slices.Contains(f.Reasons, e.Reason)) &&
		f.From.holds(e.Source.Addr()) && f.To.holds(e.Destination.Addr())
}

// allowsNamed looks at all that is known of an event.
func (f Filter) allowsNamed(s *Seen) bool {
	return f.allowsNode(s.Node) && f.allows(s.Event) && f.From.is(s.From) && f.To.is(s.To)
}

func (f Filter) allowsNode(node string) bool { return f.Node == "" || f.Node == node }

func (s Selector) holds(address netip.Addr) bool {
	return !s.Prefix.IsValid() || s.Prefix.Contains(address)
}

func (s Selector) is(p Party) bool {
	return s.Pod == "" || s.Pod == p.Pod && s.Namespace == p.Namespace
}
