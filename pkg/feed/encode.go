package feed

import (
	"errors"
	"fmt"
	"math"
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

func viewFromProto(m *feedpb.View) (*service.View, error) {
	v := &service.View{Name: nameFromProto(m.GetService())}
	v.Session, v.NodeLocal = time.Duration(m.GetSessionSeconds())*time.Second, m.GetNodeLocal()
	var err error
	if v.Frontends, err = frontendsFromProto(m.GetFrontends()); err != nil {
		return nil, err
	}
	if v.External, err = frontendsFromProto(m.GetExternal()); err != nil {
		return nil, err
	}
	for _, g := range m.GetGroups() {
		if g.GetTier() > math.MaxUint8 || g.GetWeight() > math.MaxUint16 {
			return nil, fmt.Errorf("%w: group of tier %d and weight %d", errMalformed, g.GetTier(), g.GetWeight())
		}
		v.Groups = append(v.Groups, service.Group{Clusters: g.GetClusters(), Tier: uint8(g.GetTier()), Weight: uint16(g.GetWeight())})
	}
	return v, nil
}

func frontendsFromProto(frontends []*feedpb.Frontend) ([]service.Frontend, error) {
	var out []service.Frontend
	for _, f := range frontends {
		ip, err := ipFromProto(f.GetIp())
		if err != nil {
			return nil, err
		}
		ports, err := portsFromProto(f.GetPorts())
		if err != nil {
			return nil, err
		}
		out = append(out, service.Frontend{IP: ip, Ports: ports})
	}
	return out, nil
}

func sliceFromProto(m *feedpb.BackendSlice) (*service.BackendSlice, error) {
	ports, err := portsFromProto(m.GetPorts())
	if err != nil {
		return nil, err
	}
	s := &service.BackendSlice{BackendSliceKey: keyFromProto(m.GetKey()), Ports: ports}
	for _, e := range m.GetEndpoints() {
		ip, err := ipFromProto(e.GetIp())
		if err != nil {
			return nil, err
		}
		state := service.BackendReady
		if e.GetState() != feedpb.Endpoint_READY {
			state = service.BackendTerminating // a state to come is no better than this
		}
		s.Endpoints = append(s.Endpoints, service.BackendEndpoint{IP: ip, State: state, Node: e.GetNode(), Pod: e.GetPod()})
	}
	return s, nil
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

func portsFromProto(ports []*feedpb.Port) ([]service.Port, error) {
	var out []service.Port
	for _, p := range ports {
		if p.GetPort() > math.MaxUint16 {
			return nil, fmt.Errorf("%w: port %d", errMalformed, p.GetPort())
		}
		out = append(out, service.Port{Name: p.GetName(), Protocol: service.Protocol(p.GetProtocol()), Port: uint16(p.GetPort())})
	}
	return out, nil
}

func ipFromProto(b []byte) (netip.Addr, error) {
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, fmt.Errorf("%w: an address of %d bytes", errMalformed, len(b))
	}
	return ip, nil
}
