package host

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// elementsAtOnce keeps a message with elements of a set below what its length
// field can say. It is even, as an interval has two.
const elementsAtOnce = 1000

// setChange is what a set in the kernel lacks, and what it has too much.
type setChange struct {
	set         *set
	add, remove []nftables.SetElement
}

// inKernel is how the library names the set.
func (s *set) inKernel() *nftables.Set {
	made := &nftables.Set{Table: filterTable(), Name: s.name, Interval: true, KeyType: nftables.TypeIPAddr}
	if s.v6 {
		made.KeyType = nftables.TypeIP6Addr
	}
	return made
}

func (k *kernel) writeSet(s *set, id uint32) error {
	made := s.inKernel()
	made.ID = id
	err := k.filter.AddSet(made, nil)
	for part := range slices.Chunk(elements(s.ranges), elementsAtOnce) {
		err = errors.Join(err, k.filter.SetAddElements(made, part))
	}
	if err != nil {
		return fmt.Errorf("nftables set %s: %w", s.name, err)
	}
	return nil
}

// changeSets makes all changes in one step.
func (k *kernel) changeSets(changes []setChange) error {
	var errs []error
	for _, c := range changes {
		for part := range slices.Chunk(c.remove, elementsAtOnce) {
			errs = append(errs, k.filter.SetDeleteElements(c.set.inKernel(), part))
		}
		for part := range slices.Chunk(c.add, elementsAtOnce) {
			errs = append(errs, k.filter.SetAddElements(c.set.inKernel(), part))
		}
	}
	if err := errors.Join(append(errs, k.filter.Flush())...); err != nil {
		return fmt.Errorf("change nftables sets of %s: %w", Mark, err)
	}
	return nil
}

// elements returns canonical prefixes as a set of intervals has them: the first
// address of each, and the first one behind it. Those that follow each other stay
// apart, so that each can come and go by itself.
func elements(ranges []netip.Prefix) []nftables.SetElement {
	var all []nftables.SetElement
	for _, p := range ranges {
		all = append(all, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := last(p).Next(); end.IsValid() { // there is none behind the last address
			all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return all
}

// last returns the last address of p.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

// compareSet reads a set; there is false when it is not.
func (k *kernel) compareSet(want *set) (c setChange, there bool, err error) {
	is, err := k.filter.GetSetElements(want.inKernel())
	if errors.Is(err, unix.ENOENT) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("read nftables set %s: %w", want.name, err)
	}
	// The kernel adds an end below the first interval, and has no order.
	key := func(e nftables.SetElement) string { return fmt.Sprintf("%x %t", e.Key, e.IntervalEnd) }
	found := map[string]nftables.SetElement{}
	for _, e := range is {
		if !e.IntervalEnd || bytes.Count(e.Key, []byte{0}) != len(e.Key) {
			found[key(e)] = e
		}
	}
	c.set = want
	for _, e := range elements(want.ranges) {
		if _, ok := found[key(e)]; !ok {
			c.add = append(c.add, e)
		}
		delete(found, key(e))
	}
	for _, e := range found {
		c.remove = append(c.remove, nftables.SetElement{Key: e.Key, IntervalEnd: e.IntervalEnd})
	}
	slices.SortFunc(c.remove, byKey)
	return c, true, nil
}

// byKey puts the end of an interval before the start of the next one.
func byKey(a, b nftables.SetElement) int {
	if order := bytes.Compare(a.Key, b.Key); order != 0 || a.IntervalEnd == b.IntervalEnd {
		return order
	}
	if a.IntervalEnd {
		return -1
	}
	return 1
}
