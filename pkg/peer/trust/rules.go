package trust

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Rules are what we take from a peer. The zero value takes every service.
type Rules struct {
	// Namespaces are those whose services are taken; empty for all.
	Namespaces []string
	// Services chooses services by their labels.
	Services Selector
	Quotas   Quotas
}

// Quotas are how much a peer may say: keys by kind, and bytes of all values.
type Quotas struct {
	Nodes, Addresses, Identities, Services, Slices, Bytes int
}

// DefaultQuotas are those of a peer whose file says nothing else. Slices have the
// bytes as their limit, and 100 for each service.
func DefaultQuotas() Quotas {
	return Quotas{Nodes: 25_000, Addresses: 1_000_000, Identities: 65_280, Services: 20_000, Slices: 2_000_000, Bytes: 512 << 20}
}

// Selector chooses by labels: all of its requirements must hold.
type Selector struct {
	MatchLabels      map[string]string
	MatchExpressions []Requirement
}

// Requirement is one condition on a label.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string
}

// Operator is how a label's value is compared.
type Operator string

// The operators, as Kubernetes has them.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Validate returns what is wrong with a selector.
func (s Selector) Validate() error {
	for _, r := range s.MatchExpressions {
		valued := r.Operator == In || r.Operator == NotIn
		switch {
		case r.Key == "":
			return errors.New("an expression has no key")
		case !valued && r.Operator != Exists && r.Operator != DoesNotExist:
			return fmt.Errorf("operator %q of %q is none of In, NotIn, Exists, DoesNotExist", r.Operator, r.Key)
		case valued == (len(r.Values) == 0):
			return fmt.Errorf("operator %s of %q: values are for In and NotIn, which need at least one", r.Operator, r.Key)
		}
	}
	return nil
}

// matches reports whether a service's labels are chosen.
func (s Selector) matches(labels map[string]string) bool {
	for key, want := range s.MatchLabels {
		if got, ok := labels[key]; !ok || got != want {
			return false
		}
	}
	for _, r := range s.MatchExpressions {
		if !r.holds(labels) {
			return false
		}
	}
	return true
}

func (r Requirement) holds(labels map[string]string) bool {
	value, ok := labels[r.Key]
	switch r.Operator {
	case In:
		return ok && slices.Contains(r.Values, value)
	case NotIn:
		return !ok || !slices.Contains(r.Values, value)
	case Exists:
		return ok
	default:
		return !ok
	}
}

// namespace refuses what is in a namespace that is not taken.
func (r *Rules) namespace(name string) error {
	if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, name) {
		return refusef(ImportRule, "namespace %s is not imported from this peer", name)
	}
	return nil
}

// String returns a selector as people write it: a=b,c in (d,e),!f.
func (s Selector) String() string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		parts = append(parts, key+"="+s.MatchLabels[key])
	}
	for _, r := range s.MatchExpressions {
		switch r.Operator {
		case Exists:
			parts = append(parts, r.Key)
		case DoesNotExist:
			parts = append(parts, "!"+r.Key)
		default:
			parts = append(parts, fmt.Sprintf("%s %s (%s)", r.Key, strings.ToLower(string(r.Operator)), strings.Join(r.Values, ",")))
		}
	}
	return strings.Join(parts, ",")
}
