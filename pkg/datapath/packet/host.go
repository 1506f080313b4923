package packet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// rest is how long an index means nothing before it means another host: a
// program that has read it from an address just before still follows it.
const rest = time.Second

// host is an underlay address: a node's, or one that addresses are said to be
// behind. It has an index of its own from then on, so addresses and nodes may
// become known in any order, and no address is written again when its node is.
type host struct {
	ip    ip
	index uint32
	// claims are the nodes that name it; the first one has it.
	claims []node.Key
	// words is how many addresses have the index.
	words int
	// stays says that it was found in maps that were adopted, and Prune has not
	// been yet.
	stays bool
	// What the maps have of it. known is false when its key is not there.
	known  bool
	inHost bpf.MeshHost
	inNode bpf.MeshNode
}

// hosts gives indexes to underlay addresses.
type hosts struct {
	byIP    map[ip]*host
	byIndex map[uint32]*host
	next    uint32 // never given out
	limit   uint32
	resting []resting // in the order of their time
}

type resting struct {
	index uint32
	until time.Time
}

func newHosts(limit uint32) *hosts {
	return &hosts{byIP: map[ip]*host{}, byIndex: map[uint32]*host{}, next: 1, limit: limit}
}

// intern returns the host of an underlay address.
func (h *hosts) intern(a netip.Addr) (*host, error) {
	key := ipOf(a)
	if known := h.byIP[key]; known != nil {
		return known, nil
	}
	index, err := h.index(time.Now())
	if err != nil {
		return nil, fmt.Errorf("underlay address %v: %w", a, err)
	}
	made := &host{ip: key, index: index}
	h.byIP[key], h.byIndex[index] = made, made
	return made, nil
}

func (h *hosts) index(now time.Time) (uint32, error) {
	if h.next < h.limit {
		h.next++
		return h.next - 1, nil
	}
	if len(h.resting) > 0 && !h.resting[0].until.After(now) {
		index := h.resting[0].index
		h.resting = h.resting[1:]
		return index, nil
	}
	return 0, fmt.Errorf("%d nodes: %w", h.limit, ErrFull)
}

// free forgets a host. Its index rests.
func (h *hosts) free(gone *host) {
	delete(h.byIP, gone.ip)
	delete(h.byIndex, gone.index)
	h.resting = append(h.resting, resting{gone.index, time.Now().Add(rest)})
}

// adopt takes over a host that was found in a map.
func (h *hosts) adopt(key ip, v bpf.MeshHost) {
	known := &host{ip: key, index: v.Index, stays: true, known: true, inHost: v}
	h.byIP[key], h.byIndex[v.Index] = known, known
	h.next = max(h.next, v.Index+1)
}

// adopted makes the indexes between those that were found usable again.
func (h *hosts) adopted() {
	until := time.Now().Add(rest)
	for index := uint32(1); index < h.next; index++ {
		if h.byIndex[index] == nil {
			h.resting = append(h.resting, resting{index, until})
		}
	}
}

// isUnused reports whether nothing names the host any more.
func (h *host) isUnused() bool { return len(h.claims) == 0 && h.words == 0 && !h.stays }

// claim adds a node to those that name the host.
func (h *host) claim(key node.Key, first bool) {
	switch {
	case slices.Contains(h.claims, key):
	case first:
		h.claims = slices.Insert(h.claims, 0, key)
	default:
		h.claims = append(h.claims, key)
	}
}

func (h *host) release(key node.Key) {
	h.claims = slices.DeleteFunc(h.claims, func(k node.Key) bool { return k == key })
}

// tunnelTo returns the address by which self sends to n: of a family that both
// have, IPv4 before IPv6; the zero Addr when there is none.
func tunnelTo(self *route.Self, n Node) netip.Addr {
	for _, v6 := range []bool{false, true} {
		if to := route.Family(n.Underlay, v6); to.IsValid() && route.Family(self.Underlay, v6).IsValid() {
			return to
		}
	}
	return netip.Addr{}
}
