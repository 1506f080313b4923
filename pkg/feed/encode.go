package feed

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// errMalformed is returned for a resource that no server of this protocol sends.
var errMalformed = errors.New("malformed resource")

// encodeView returns v as a Resource. Equal views have equal encodings.
func encodeView(v *service.View) ([]byte, error) {
	m := &feedpb.View{
		Service:        nameToProto(v.Name),
		Frontends:      frontendsToProto(v.Frontends),
		External:       frontendsToProto(v.External),
		SessionSeconds: uint32(v.Session / time.Second),
		NodeLocal:      v.NodeLocal,
	}
	for _, g := range v.Groups {
		m.Groups = append(m.Groups, &feedpb.Group{Clusters: g.Clusters, Tier: uint32(g.Tier), Weight: uint32(g.Weight)})
	}
	return marshal(&feedpb.Resource{Resource: &feedpb.Resource_View{View: m}})
}

// encodeSlice returns s as a Resource. Equal slices have equal encodings.
func encodeSlice(s *service.BackendSlice) ([]byte, error) {
	m := &feedpb.BackendSlice{
		Key:       keyToProto(s.BackendSliceKey),
		Ports:     portsToProto(s.Ports),
		Endpoints: make([]*feedpb.Endpoint, len(s.Endpoints)),
	}
	for i, e := range s.Endpoints {
		m.Endpoints[i] = &feedpb.Endpoint{Ip: e.IP.AsSlice(), State: feedpb.Endpoint_State(e.State), Node: e.Node, Pod: e.Pod}
	}
	return marshal(&feedpb.Resource{Resource: &feedpb.Resource_Slice{Slice: m}})
}

// marshal fails only for text that is not UTF-8.
func marshal(r *feedpb.Resource) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(r)
}

func nameToProto(n service.Name) *feedpb.ServiceName {
	return &feedpb.ServiceName{Namespace: n.Namespace, Name: n.Name}
}

func keyToProto(k service.BackendSliceKey) *feedpb.SliceKey {
	return &feedpb.SliceKey{Service: nameToProto(k.Service), Cluster: k.Cluster, Slice: k.Slice, Part: uint32(k.Part)}
}

func frontendsToProto(frontends []service.Frontend) []*feedpb.Frontend {
	var out []*feedpb.Frontend
	for _, f := range frontends {
		out = append(out, &feedpb.Frontend{Ip: f.IP.AsSlice(), Ports: portsToProto(f.Ports)})
	}
	return out
}

func portsToProto(ports []service.Port) []*feedpb.Port {
	out := make([]*feedpb.Port, len(ports))
	for i, p := range ports {
		out[i] = &feedpb.Port{Name: p.Name, Protocol: string(p.Protocol), Port: uint32(p.Port)}
	}
	return out
}

func nameFromProto(m *feedpb.ServiceName) service.Name {
	return service.Name{Namespace: m.GetNamespace(), Name: m.GetName()}
}

func keyFromProto(m *feedpb.SliceKey) service.BackendSliceKey {
	return service.BackendSliceKey{
		Service: nameFromProto(m.GetService()),
		Cluster: m.GetCluster(),
		Slice:   m.GetSlice(),
		Part:    int(m.GetPart()),
	}
}

func ipFromProto(b []byte) (netip.Addr, error) {
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("%w: an address of %d bytes", errMalformed, len(b))
	}
	return ip, nil
}
