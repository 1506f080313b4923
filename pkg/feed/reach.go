package feed

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// Reach says what of the State changed of who is where and how that is reached.
// The values are read from the State, which may be newer by then.
type Reach struct {
	Revision Revision
	// All says that anything may be different, Restored that this is what the
	// State had before an API server was heard.
	All, Restored bool
	// Nodes says that some node is, or some peer.
	Nodes bool
	// Ranges and Addresses are those that are different.
	Ranges    []netip.Prefix
	Addresses []netip.Prefix
	// Whole says that an API server has told all there is: what is not in the
	// State does not exist. Before, it may.
	Whole bool
}

// Mesh is how a node takes part in the routing between clusters.
type Mesh struct {
	// Revision is the newest that is in effect.
	Revision Revision
	// Addresses are the node's mesh addresses; without any it takes no part.
	Addresses []netip.Addr
	// Peers and Ranges are how many packets are carried to.
	Peers, Ranges int
	// Problems are for people. Error is what keeps the newest state from being in
	// effect, "" for nothing.
	Problems []string
	Error    string
}

// reachKinds are those that Reach is about.
func reachKinds() kindSet { return setOf(Node, Identity, Address, Peer, Range) }

// whole reports whether an API server has told all that Reach is about.
func (c *Client) whole() bool { return c.given&reachKinds() == reachKinds() }

// tellReach tells the watcher of changes.
func (c *Client) tellReach(r Revision, changes []told) {
	if c.cfg.Watch == nil {
		return
	}
	out := Reach{Revision: r, Whole: c.whole()}
	for _, t := range changes {
		switch t.key.kind {
		case Node, Peer:
			out.Nodes = true
		case Range:
			out.Ranges = append(out.Ranges, prefixOf(t.key.text))
		case Address:
			out.Addresses = append(out.Addresses, prefixOf(t.key.text))
		}
	}
	c.cfg.Watch(out)
}

// prefixOf is the reverse of addressKey and rangeKey.
func prefixOf(text string) netip.Prefix {
	a, _ := netip.AddrFromSlice([]byte(text[:len(text)-1])) // a key has 4 or 16 bytes of address
	return netip.PrefixFrom(a, int(text[len(text)-1]))
}

// Nodes returns all nodes and peers; it takes some time with many.
func (s *State) Nodes() (nodes []*node.Node, peers map[string]*route.Peer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	peers = map[string]*route.Peer{}
	for _, kind := range []Kind{Node, Peer} {
		s.shelves[kind].all(func(have record) {
			r, wrong := decode([]byte(have.encoded))
			switch v := r.value.(type) {
			case *node.Node:
				nodes = append(nodes, v)
			case *route.Peer:
				peers[v.Cluster] = v
			default:
				err = wrong
			}
		})
	}
	return nodes, peers, err
}

// Owner returns whose an address is, nil when nobody's.
func (s *State) Owner(p netip.Prefix) (*endpoint.Owner, error) {
	v, err := s.find(addressKey(p))
	owner, _ := v.(*endpoint.Owner)
	return owner, err
}

// Range returns whose a range is, nil when nobody's.
func (s *State) Range(p netip.Prefix) (*route.Range, error) {
	v, err := s.find(rangeKey(p))
	r, _ := v.(*route.Range)
	return r, err
}

// Identity returns what a number stands for, nil when nobody has said so.
func (s *State) Identity(n identity.Number) (*identity.Identity, error) {
	v, err := s.find(identityKey(n))
	i, _ := v.(*identity.Identity)
	return i, err
}

// HasOwner reports whether an address is anybody's.
func (s *State) HasOwner(p netip.Prefix) bool {
	k := addressKey(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.shelves[k.kind].get(k.text)
	return ok
}

func (s *State) find(k key) (any, error) {
	s.mu.Lock()
	have, ok := s.shelves[k.kind].get(k.text)
	s.mu.Unlock()
	if !ok {
		return nil, nil
	}
	r, err := decode([]byte(have.encoded))
	return r.value, err
}

// Ranges returns all ranges.
func (s *State) Ranges() (map[netip.Prefix]*route.Range, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[netip.Prefix]*route.Range, s.shelves[Range].count)
	var err error
	s.shelves[Range].all(func(have record) {
		r, wrong := decode([]byte(have.encoded))
		if v, ok := r.value.(*route.Range); ok {
			out[v.Prefix] = v
		} else {
			err = wrong
		}
	})
	return out, err
}

// Owners calls fn with the owners of all addresses, some at a time, until it
// fails. The State may change meanwhile: one that does is in Reach again.
func (s *State) Owners(fn func(map[netip.Prefix]*endpoint.Owner) error) error {
	for n := range bucketCount {
		some := map[netip.Prefix]*endpoint.Owner{}
		s.mu.Lock()
		records := slices.Clone(s.shelves[Address].bucket(n))
		s.mu.Unlock()
		for _, have := range records {
			r, err := decode([]byte(have.encoded))
			if err != nil {
				return err
			}
			some[r.name.(netip.Prefix)] = r.value.(*endpoint.Owner)
		}
		if len(some) == 0 {
			continue
		}
		if err := fn(some); err != nil {
			return err
		}
	}
	return nil
}

func peerKey(cluster string) key { return key{Peer, cluster} }

func rangeKey(p netip.Prefix) key { return key{Range, addressKey(p).text} }

// rangeName names a Range, as a netip.Prefix names an address.
type rangeName netip.Prefix

func encodePeer(p *route.Peer) ([]byte, error) {
	m := &feedpb.Peer{Cluster: p.Cluster, Id: uint32(p.ID), Mode: string(p.Mode), Size: uint32(p.Size), Search: string(p.Search)}
	return marshal(&feedpb.Resource{Resource: &feedpb.Resource_Peer{Peer: m}})
}

func encodeRange(r *route.Range) ([]byte, error) {
	m := &feedpb.Range{Prefix: prefixToProto(r.Prefix), Cluster: r.Cluster}
	return marshal(&feedpb.Resource{Resource: &feedpb.Resource_Range{Range: m}})
}

// decodeReach reads peers and ranges. What they say is checked where it is used.
func decodeReach(r *feedpb.Resource) (resource, error) {
	switch r := r.Resource.(type) {
	case *feedpb.Resource_Peer:
		p := &route.Peer{Cluster: r.Peer.GetCluster(), ID: cluster.ID(r.Peer.GetId()), Mode: route.Mode(r.Peer.GetMode()), Size: cluster.Size(r.Peer.GetSize()), Search: route.Search(r.Peer.GetSearch())}
		return resource{peerKey(p.Cluster), p.Cluster, p}, nil
	case *feedpb.Resource_DeletedPeer:
		return resource{peerKey(r.DeletedPeer), r.DeletedPeer, nil}, nil
	case *feedpb.Resource_Range:
		p, err := prefixFromProto(r.Range.GetPrefix())
		if err != nil {
			return resource{}, fmt.Errorf("range of %q: %w", r.Range.GetCluster(), err)
		}
		return resource{rangeKey(p), rangeName(p), &route.Range{Prefix: p, Cluster: r.Range.GetCluster()}}, nil
	case *feedpb.Resource_DeletedRange:
		p, err := prefixFromProto(r.DeletedRange)
		if err != nil {
			return resource{}, fmt.Errorf("deleted range: %w", err)
		}
		return resource{rangeKey(p), rangeName(p), nil}, nil
	}
	return resource{}, fmt.Errorf("%w: of no kind that this version knows", errMalformed)
}

func meshToProto(m *Mesh) *feedpb.Mesh {
	if m == nil {
		return nil
	}
	out := &feedpb.Mesh{Revision: revisionToProto(m.Revision), Peers: uint64(m.Peers), Ranges: uint64(m.Ranges), Error: clip(m.Error)}
	for _, a := range m.Addresses {
		out.Addresses = append(out.Addresses, a.AsSlice())
	}
	for _, p := range m.Problems[:min(len(m.Problems), maxProblems)] {
		out.Problems = append(out.Problems, clip(p))
	}
	return out
}

// maxProblems is how many problems of a node are told.
const maxProblems = 16

func meshFromProto(m *feedpb.Mesh) *Mesh {
	if m == nil {
		return nil
	}
	revision := revisionFromProto(m.GetRevision())
	revision.Epoch = clip(revision.Epoch)
	out := &Mesh{Revision: revision, Peers: int(m.GetPeers()), Ranges: int(m.GetRanges()), Error: clip(m.GetError())}
	for _, a := range m.GetAddresses()[:min(len(m.GetAddresses()), 2)] {
		if ip, err := ipFromProto(a); err == nil {
			out.Addresses = append(out.Addresses, ip)
		}
	}
	for _, p := range m.GetProblems()[:min(len(m.GetProblems()), maxProblems)] {
		out.Problems = append(out.Problems, clip(p))
	}
	return out
}
