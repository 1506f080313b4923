package service

import (
	"cmp"
	"slices"
	"strings"
)

// Sort brings all lists of s into their one order, in place. Whoever makes a
// Service calls it once, before anybody else sees it.
func (s *Service) Sort() {
	slices.SortFunc(s.Frontends, func(a, b Frontend) int { return a.IP.Compare(b.IP) })
	slices.SortFunc(s.Backends, func(a, b Backend) int { return a.IP.Compare(b.IP) })
	slices.SortFunc(s.External, func(a, b Frontend) int { return a.IP.Compare(b.IP) })
	for _, f := range slices.Concat(s.Frontends, s.External) {
		slices.SortFunc(f.Ports, ComparePorts)
	}
	for _, b := range s.Backends {
		slices.SortFunc(b.Ports, ComparePorts)
	}
}

// Sort brings all lists of s into their one order, in place. Whoever makes a
// Slice calls it once, before anybody else sees it. The addresses of one
// endpoint keep their order: it has a meaning.
func (s *Slice) Sort() {
	slices.SortFunc(s.Ports, ComparePorts)
	slices.SortStableFunc(s.Endpoints, compareEndpoints)
}

// ComparePorts orders ports by name, protocol and number.
func ComparePorts(a, b Port) int {
	return cmp.Or(
		strings.Compare(a.Name, b.Name),
		strings.Compare(string(a.Protocol), string(b.Protocol)),
		cmp.Compare(a.Port, b.Port),
		strings.Compare(a.AppProtocol, b.AppProtocol),
	)
}

// compareEndpoints orders by first address; two endpoints of one address, which
// a slice in the middle of a change may hold, by what they stand for.
func compareEndpoints(a, b Endpoint) int {
	for i := range min(len(a.Addresses), len(b.Addresses)) {
		if order := a.Addresses[i].Compare(b.Addresses[i]); order != 0 {
			return order
		}
	}
	return cmp.Or(
		cmp.Compare(len(a.Addresses), len(b.Addresses)),
		strings.Compare(a.TargetName, b.TargetName),
		strings.Compare(a.TargetUID, b.TargetUID),
	)
}
