package feed

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// encode returns d as changes of resources.
func (s *Server) encode(d merge.Delta) []change {
	changes := make([]change, 0, len(d.Services.Views)+len(d.Services.Slices)+len(d.Nodes)+len(d.Identities)+len(d.Addresses)+len(d.Ranges))
	for name, view := range d.Services.Views {
		changes = append(changes, s.change(viewKey(name), name, view != nil, func() ([]byte, error) { return encodeView(view) }))
	}
	for k, slice := range d.Services.Slices {
		changes = append(changes, s.change(sliceKey(k), k, slice != nil, func() ([]byte, error) { return encodeSlice(slice) }))
	}
	for k, n := range d.Nodes {
		changes = append(changes, s.change(nodeKey(k), k, n != nil, func() ([]byte, error) { return encodeNode(n) }))
	}
	for n, i := range d.Identities {
		changes = append(changes, s.change(identityKey(n), n, i != nil, func() ([]byte, error) { return encodeIdentity(i) }))
	}
	for p, o := range d.Addresses {
		changes = append(changes, s.change(addressKey(p), p, o != nil, func() ([]byte, error) { return encodeAddress(p, o) }))
	}
	for name, p := range d.Peers {
		changes = append(changes, s.change(peerKey(name), name, p != nil, func() ([]byte, error) { return encodePeer(p) }))
	}
	for p, r := range d.Ranges {
		changes = append(changes, s.change(rangeKey(p), rangeName(p), r != nil, func() ([]byte, error) { return encodeRange(r) }))
	}
	return changes
}

// change returns the encoding of one resource, or of its deletion.
func (s *Server) change(k key, name any, live bool, encode func() ([]byte, error)) change {
	if live {
		encoded, err := encode()
		if err == nil {
			return change{key: k, encoded: encoded}
		}
		s.cfg.Logger.Warn("resource cannot be sent to the nodes, they go without it",
			"kind", k.kind.String(), "resource", fmt.Sprintf("%+v", name), "error", err)
	}
	// A key that cannot be encoded was never sent, so nil is never sent either.
	encoded, _ := encodeDeletion(name)
	return change{key: k, encoded: encoded, deleted: true}
}

// encodeDeletion returns the Resource that says that the one of that name is
// gone; see resource for names.
func encodeDeletion(name any) ([]byte, error) {
	r := &feedpb.Resource{}
	switch name := name.(type) {
	case service.Name:
		r.Resource = &feedpb.Resource_DeletedView{DeletedView: nameToProto(name)}
	case service.BackendSliceKey:
		r.Resource = &feedpb.Resource_DeletedSlice{DeletedSlice: keyToProto(name)}
	case node.Key:
		r.Resource = &feedpb.Resource_DeletedNode{DeletedNode: nodeKeyToProto(name)}
	case identity.Number:
		r.Resource = &feedpb.Resource_DeletedIdentity{DeletedIdentity: uint32(name)}
	case netip.Prefix:
		r.Resource = &feedpb.Resource_DeletedAddress{DeletedAddress: prefixToProto(name)}
	case string:
		r.Resource = &feedpb.Resource_DeletedPeer{DeletedPeer: name}
	case rangeName:
		r.Resource = &feedpb.Resource_DeletedRange{DeletedRange: prefixToProto(netip.Prefix(name))}
	}
	return marshal(r)
}

func encodeNode(n *node.Node) ([]byte, error) {
	m := &feedpb.Node{Key: nodeKeyToProto(node.Key{Cluster: n.Cluster, Name: n.Name}), ClusterId: uint32(n.ClusterID)}
	for _, a := range n.Addresses {
		if !a.IP.IsValid() {
			continue
		}
		m.Addresses = append(m.Addresses, &feedpb.NodeAddress{Type: string(a.Type), Ip: a.IP.AsSlice()})
	}
	for _, p := range n.PodCIDRs {
		m.PodCidrs = append(m.PodCidrs, prefixToProto(p))
	}
	return marshal(&feedpb.Resource{Resource: &feedpb.Resource_Node{Node: m}})
}

func encodeIdentity(i *identity.Identity) ([]byte, error) {
	m := &feedpb.Identity{Number: uint32(i.Number), Labels: string(i.Labels)}
	return marshal(&feedpb.Resource{Resource: &feedpb.Resource_Identity{Identity: m}})
}

func encodeAddress(p netip.Prefix, o *endpoint.Owner) ([]byte, error) {
	m := &feedpb.Address{
		Prefix: prefixToProto(p), Cluster: o.Cluster, Identity: uint32(o.Identity), HostIp: o.HostIP.AsSlice(),
		Namespace: o.Namespace, Pod: o.Pod,
	}
	return marshal(&feedpb.Resource{Resource: &feedpb.Resource_Address{Address: m}})
}

func nodeKeyToProto(k node.Key) *feedpb.NodeKey {
	return &feedpb.NodeKey{Cluster: k.Cluster, Name: k.Name}
}

func prefixToProto(p netip.Prefix) *feedpb.Prefix {
	return &feedpb.Prefix{Ip: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

// resource is one that was decoded. value is nil for a deletion, else a
// *service.View, *service.BackendSlice, *node.Node, *identity.Identity or
// *endpoint.Owner; name is what maps of them have as the key.
type resource struct {
	key   key
	name  any
	value any
}

// decode reads an encoded Resource. Errors wrap errMalformed.
func decode(encoded []byte) (resource, error) { return words(nil).decode(encoded) }

func (w words) decode(encoded []byte) (resource, error) {
	tag, body, err := outer(encoded)
	if err != nil {
		return resource{}, err
	}
	switch tag {
	case resourceView:
		view, err := w.view(body)
		if err != nil {
			return resource{}, fmt.Errorf("view %s: %w", view.Name, err)
		}
		return resource{viewKey(view.Name), view.Name, view}, nil
	case resourceSlice:
		slice, err := w.slice(body)
		if err != nil {
			return resource{}, fmt.Errorf("backends of %s in %q: %w", slice.Service, slice.Cluster, err)
		}
		return resource{sliceKey(slice.BackendSliceKey), slice.BackendSliceKey, slice}, nil
	case resourceAddress:
		p, owner, err := w.address(body)
		if err != nil {
			return resource{}, fmt.Errorf("address of %q: %w", owner.Cluster, err)
		}
		return resource{addressKey(p), p, owner}, nil
	}
	var r feedpb.Resource
	if err := proto.Unmarshal(encoded, &r); err != nil {
		return resource{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return decodeRest(&r)
}

// decodeRest reads what is told less often.
func decodeRest(r *feedpb.Resource) (resource, error) {
	switch r := r.Resource.(type) {
	case *feedpb.Resource_DeletedView:
		name := nameFromProto(r.DeletedView)
		return resource{viewKey(name), name, nil}, nil
	case *feedpb.Resource_DeletedSlice:
		k := keyFromProto(r.DeletedSlice)
		return resource{sliceKey(k), k, nil}, nil
	case *feedpb.Resource_Node:
		n, err := nodeFromProto(r.Node)
		if err != nil {
			return resource{}, fmt.Errorf("node %q of %q: %w", r.Node.GetKey().GetName(), r.Node.GetKey().GetCluster(), err)
		}
		k := node.Key{Cluster: n.Cluster, Name: n.Name}
		return resource{nodeKey(k), k, n}, nil
	case *feedpb.Resource_Identity:
		i := &identity.Identity{Number: identity.Number(r.Identity.GetNumber()), Labels: identity.Labels(r.Identity.GetLabels())}
		return resource{identityKey(i.Number), i.Number, i}, nil
	case *feedpb.Resource_DeletedNode:
		k := node.Key{Cluster: r.DeletedNode.GetCluster(), Name: r.DeletedNode.GetName()}
		return resource{nodeKey(k), k, nil}, nil
	case *feedpb.Resource_DeletedIdentity:
		n := identity.Number(r.DeletedIdentity)
		return resource{identityKey(n), n, nil}, nil
	case *feedpb.Resource_DeletedAddress:
		p, err := prefixFromProto(r.DeletedAddress)
		if err != nil {
			return resource{}, fmt.Errorf("deleted address: %w", err)
		}
		return resource{addressKey(p), p, nil}, nil
	}
	return decodeReach(r)
}

func nodeFromProto(m *feedpb.Node) (*node.Node, error) {
	n := &node.Node{Cluster: m.GetKey().GetCluster(), Name: m.GetKey().GetName(), ClusterID: cluster.ID(m.GetClusterId())}
	for _, a := range m.GetAddresses() {
		ip, err := ipFromProto(a.GetIp())
		if err != nil {
			return nil, err
		}
		n.Addresses = append(n.Addresses, node.Address{Type: node.AddressType(a.GetType()), IP: ip})
	}
	for _, c := range m.GetPodCidrs() {
		p, err := prefixFromProto(c)
		if err != nil {
			return nil, err
		}
		n.PodCIDRs = append(n.PodCIDRs, p)
	}
	return n, nil
}

func prefixFromProto(m *feedpb.Prefix) (netip.Prefix, error) {
	ip, err := ipFromProto(m.GetIp())
	if err != nil {
		return netip.Prefix{}, err
	}
	bits := m.GetBits()
	if bits > uint32(ip.BitLen()) {
		return netip.Prefix{}, fmt.Errorf("%w: a prefix of %d bits", errMalformed, bits)
	}
	return netip.PrefixFrom(ip, int(bits)), nil
}

// addTo puts a view or slice into d; others it leaves out.
func (r resource) addTo(d *service.Delta) {
	switch name := r.name.(type) {
	case service.Name:
		view, _ := r.value.(*service.View)
		d.Views[name] = view
	case service.BackendSliceKey:
		slice, _ := r.value.(*service.BackendSlice)
		d.Slices[name] = slice
	}
}
