package wire

import (
	"math"
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// parseSlice reads what appendSlice writes, in any order and with fields that
// it does not know, which it leaves out. Lists are bounded while they are read.
func parseSlice(b []byte) (*service.Slice, error) {
	s := &service.Slice{Endpoints: make([]service.Endpoint, 0, min(countFields(b, sliceEndpoints), maxSliceEndpoints))}
	var family string
	err := eachField(b, func(f field) (err error) {
		switch f.number {
		case sliceCluster:
			err = f.string(&s.Cluster)
		case sliceClusterID:
			var id uint64
			id, err = f.varint(uint64(cluster.Size511))
			s.ClusterID = cluster.ID(id)
		case sliceNamespace:
			err = f.string(&s.Namespace)
		case sliceName:
			err = f.string(&s.Name)
		case sliceLabels:
			err = f.mapEntry("labels", &s.Labels)
		case sliceAnnotations:
			err = f.mapEntry("annotations", &s.Annotations)
		case sliceAddressType:
			err = f.string(&family)
		case sliceEndpoints:
			err = appendParsed(f, &s.Endpoints, "endpoints of a slice", maxSliceEndpoints, func(b []byte) (service.Endpoint, error) {
				return parseEndpoint(b, s.Namespace)
			})
		case slicePorts:
			err = appendParsed(f, &s.Ports, "ports of a slice", maxSlicePorts, parsePort)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(s.Endpoints) == 0 {
		s.Endpoints = nil
	}
	if family != addressTypeIPv4 && family != addressTypeIPv6 {
		return nil, malformed("address type %q is neither IPv4 nor IPv6", family)
	}
	s.IPv6 = family == addressTypeIPv6
	return s, nil
}

// parseEndpoint shares what most endpoints of a slice have alike: there may be
// a million of them.
func parseEndpoint(b []byte, namespace string) (service.Endpoint, error) {
	e := service.Endpoint{}
	var set conditions
	err := eachField(b, func(f field) error {
		switch f.number {
		case endpointAddresses:
			return appendParsed(f, &e.Addresses, "addresses", maxEndpointAddresses, parseIPBytes)
		case endpointConditions:
			return f.message(func(c field) error { return set.parse(c) })
		case endpointHostname:
			return f.string(&e.Hostname)
		case endpointTarget:
			return f.message(func(t field) error { return parseTarget(&e, t, namespace) })
		case endpointNode:
			return f.string(&e.Node)
		case endpointZone:
			return f.string(&e.Zone)
		case endpointHints:
			return f.message(func(h field) error {
				if h.number != hintsForZones {
					return nil
				}
				return appendParsed(h, &e.ForZones, "zones of an endpoint", maxEndpointZones, parseForZone)
			})
		}
		return nil
	})
	e.Condition = set.condition()
	return e, err
}

// conditions are those that a publisher set.
type conditions struct{ ready, serving, terminating condition }

// condition is a bool that may not be set.
type condition struct{ set, value bool }

func (c condition) or(otherwise bool) bool {
	if c.set {
		return c.value
	}
	return otherwise
}

func (c *conditions) parse(f field) error {
	var to *condition
	switch f.number {
	case conditionReady:
		to = &c.ready
	case conditionServing:
		to = &c.serving
	case conditionTerminating:
		to = &c.terminating
	default:
		return nil
	}
	v, err := f.varint(math.MaxUint64)
	*to = condition{set: true, value: v != 0}
	return err
}

// condition gives what is not set the meaning that Kubernetes gives it: ready,
// serving when ready, not terminating.
func (c *conditions) condition() service.Condition {
	ready := c.ready.or(true)
	return service.Condition{Ready: ready, Serving: c.serving.or(ready), Terminating: c.terminating.or(false)}
}

func parseTarget(e *service.Endpoint, f field, namespace string) error {
	switch f.number {
	case targetKind:
		return f.stringLike(&e.TargetKind, "Pod")
	case targetNamespace:
		return f.stringLike(&e.TargetNamespace, namespace)
	case targetName:
		return f.string(&e.TargetName)
	case targetUID:
		return f.string(&e.TargetUID)
	}
	return nil
}

func parseIPBytes(b []byte) (netip.Addr, error) { return parseIP(string(b)) }

func parseForZone(b []byte) (name string, err error) {
	err = eachField(b, func(f field) error {
		if f.number != forZoneName {
			return nil
		}
		return f.string(&name)
	})
	return name, err
}

func parsePort(b []byte) (service.Port, error) {
	p := service.Port{Protocol: service.TCP}
	err := eachField(b, func(f field) error {
		switch f.number {
		case portName:
			return f.string(&p.Name)
		case portProtocol:
			var protocol string
			err := f.string(&protocol)
			p.Protocol = service.Protocol(protocol)
			return err
		case portNumber:
			number, err := f.varint(1<<16 - 1)
			p.Port = uint16(number)
			return err
		case portAppProtocol:
			return f.string(&p.AppProtocol)
		}
		return nil
	})
	return p, err
}
