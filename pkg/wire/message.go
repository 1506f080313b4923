package wire

import (
	"maps"
	"net/netip"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// The protobuf message inside an endpoint slice's value is written and read by
// hand: it is small, its own schema is in no library, and so its endpoints and
// ports need neither Kubernetes' types nor their allocations.

// Field numbers of the slice.
const (
	sliceCluster     protowire.Number = 1
	sliceClusterID   protowire.Number = 2
	sliceNamespace   protowire.Number = 3
	sliceName        protowire.Number = 4
	sliceLabels      protowire.Number = 5
	sliceAnnotations protowire.Number = 6
	sliceAddressType protowire.Number = 7
	sliceEndpoints   protowire.Number = 8
	slicePorts       protowire.Number = 9
)

// Field numbers of an endpoint, its parts and a port, those of discovery/v1.
const (
	endpointAddresses  protowire.Number = 1
	endpointConditions protowire.Number = 2
	endpointHostname   protowire.Number = 3
	endpointTarget     protowire.Number = 4
	endpointNode       protowire.Number = 6
	endpointZone       protowire.Number = 7
	endpointHints      protowire.Number = 8

	conditionReady       protowire.Number = 1
	conditionServing     protowire.Number = 2
	conditionTerminating protowire.Number = 3

	targetKind      protowire.Number = 1
	targetNamespace protowire.Number = 2
	targetName      protowire.Number = 3
	targetUID       protowire.Number = 4

	hintsForZones protowire.Number = 1
	forZoneName   protowire.Number = 1

	portName        protowire.Number = 1
	portProtocol    protowire.Number = 2
	portNumber      protowire.Number = 3
	portAppProtocol protowire.Number = 4

	mapKey   protowire.Number = 1
	mapValue protowire.Number = 2
)

// appendSlice writes fields in the order of their numbers and maps in the
// order of their keys, so that equal slices have equal bytes.
func appendSlice(b []byte, s *service.Slice) []byte {
	b = appendString(b, sliceCluster, s.Cluster)
	b = appendVarint(b, sliceClusterID, uint64(s.ClusterID))
	b = appendString(b, sliceNamespace, s.Namespace)
	b = appendString(b, sliceName, s.Name)
	b = appendMap(b, sliceLabels, s.Labels)
	b = appendMap(b, sliceAnnotations, s.Annotations)
	family := addressTypeIPv4
	if s.IPv6 {
		family = addressTypeIPv6
	}
	b = appendString(b, sliceAddressType, family)
	for i := range s.Endpoints {
		b = appendMessage(b, sliceEndpoints, appendEndpoint(nil, &s.Endpoints[i]))
	}
	for _, p := range s.Ports {
		b = appendMessage(b, slicePorts, appendPort(nil, p))
	}
	return b
}

func appendEndpoint(b []byte, e *service.Endpoint) []byte {
	for _, ip := range e.Addresses {
		b = appendString(b, endpointAddresses, ip.String())
	}
	var c []byte
	c = appendVarint(c, conditionReady, protowire.EncodeBool(e.Condition.Ready))
	c = appendVarint(c, conditionServing, protowire.EncodeBool(e.Condition.Serving))
	c = appendVarint(c, conditionTerminating, protowire.EncodeBool(e.Condition.Terminating))
	b = appendMessage(b, endpointConditions, c)
	b = appendOptional(b, endpointHostname, e.Hostname)
	if e.TargetKind+e.TargetNamespace+e.TargetName+e.TargetUID != "" {
		var t []byte
		t = appendString(t, targetKind, e.TargetKind)
		t = appendString(t, targetNamespace, e.TargetNamespace)
		t = appendString(t, targetName, e.TargetName)
		t = appendString(t, targetUID, e.TargetUID)
		b = appendMessage(b, endpointTarget, t)
	}
	b = appendOptional(b, endpointNode, e.Node)
	b = appendOptional(b, endpointZone, e.Zone)
	if len(e.ForZones) > 0 {
		var hints []byte
		for _, zone := range e.ForZones {
			hints = appendMessage(hints, hintsForZones, appendString(nil, forZoneName, zone))
		}
		b = appendMessage(b, endpointHints, hints)
	}
	return b
}

func appendPort(b []byte, p service.Port) []byte {
	b = appendString(b, portName, p.Name)
	b = appendString(b, portProtocol, string(p.Protocol))
	if p.Port != 0 {
		b = appendVarint(b, portNumber, uint64(p.Port))
	}
	return appendOptional(b, portAppProtocol, p.AppProtocol)
}

func appendMap(b []byte, n protowire.Number, m map[string]string) []byte {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		entry := appendString(nil, mapKey, key)
		b = appendMessage(b, n, appendString(entry, mapValue, m[key]))
	}
	return b
}

func appendMessage(b []byte, n protowire.Number, message []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), message)
}

func appendString(b []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func appendOptional(b []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(b, n, s)
}

func appendVarint(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

// parseSlice reads what appendSlice writes, in any order and with fields that
// it does not know, which it leaves out. Lists are bounded while they are read.
func parseSlice(b []byte) (*service.Slice, error) {
	s := &service.Slice{}
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
			err = appendParsed(f, &s.Endpoints, "endpoints of a slice", maxSliceEndpoints, parseEndpoint)
		case slicePorts:
			err = appendParsed(f, &s.Ports, "ports of a slice", maxSlicePorts, parsePort)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if family != addressTypeIPv4 && family != addressTypeIPv6 {
		return nil, malformed("address type %q is neither IPv4 nor IPv6", family)
	}
	s.IPv6 = family == addressTypeIPv6
	return s, nil
}

func parseEndpoint(b []byte) (service.Endpoint, error) {
	e := service.Endpoint{}
	conditions := map[protowire.Number]bool{}
	err := eachField(b, func(f field) error {
		switch f.number {
		case endpointAddresses:
			return appendParsed(f, &e.Addresses, "addresses", maxEndpointAddresses, parseIPBytes)
		case endpointConditions:
			return f.message(func(c field) error { return parseCondition(conditions, c) })
		case endpointHostname:
			return f.string(&e.Hostname)
		case endpointTarget:
			return f.message(func(t field) error { return parseTarget(&e, t) })
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
	e.Condition = conditionOf(conditions)
	return e, err
}

func parseCondition(set map[protowire.Number]bool, f field) error {
	switch f.number {
	case conditionReady, conditionServing, conditionTerminating:
		v, err := f.varint(1)
		set[f.number] = v == 1
		return err
	}
	return nil
}

// conditionOf gives conditions that are not set the meaning that Kubernetes
// gives them: ready, serving when ready, not terminating.
func conditionOf(set map[protowire.Number]bool) service.Condition {
	c := service.Condition{Ready: true, Terminating: set[conditionTerminating]}
	if ready, ok := set[conditionReady]; ok {
		c.Ready = ready
	}
	c.Serving = c.Ready
	if serving, ok := set[conditionServing]; ok {
		c.Serving = serving
	}
	return c
}

func parseTarget(e *service.Endpoint, f field) error {
	switch f.number {
	case targetKind:
		return f.string(&e.TargetKind)
	case targetNamespace:
		return f.string(&e.TargetNamespace)
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

// field is one field of a message. Only values of the two wire types that the
// protocol uses are kept.
type field struct {
	number protowire.Number
	typ    protowire.Type
	bytes  []byte
	value  uint64
}

// eachField calls fn for every field of a message in turn, until it returns an error.
func eachField(b []byte, fn func(field) error) error {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed("protobuf: %v", protowire.ParseError(n))
		}
		b = b[n:]
		f := field{number: number, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, typ, b)
		}
		if n < 0 {
			return malformed("protobuf: field %d: %v", number, protowire.ParseError(n))
		}
		b = b[n:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

func (f field) string(to *string) error {
	if f.typ != protowire.BytesType || !utf8.Valid(f.bytes) {
		return malformed("protobuf: field %d is not text", f.number)
	}
	*to = string(f.bytes)
	return nil
}

func (f field) varint(limit uint64) (uint64, error) {
	if f.typ != protowire.VarintType || f.value > limit {
		return 0, malformed("protobuf: field %d is not a number up to %d", f.number, limit)
	}
	return f.value, nil
}

func (f field) message(fn func(field) error) error {
	if f.typ != protowire.BytesType {
		return malformed("protobuf: field %d is not a message", f.number)
	}
	return eachField(f.bytes, fn)
}

func (f field) mapEntry(what string, to *map[string]string) error {
	var key, value string
	err := f.message(func(part field) error {
		switch part.number {
		case mapKey:
			return part.string(&key)
		case mapValue:
			return part.string(&value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if *to == nil {
		*to = make(map[string]string)
	}
	(*to)[key] = value
	if len(*to) > maxMapEntries {
		return tooLarge(what, len(*to), maxMapEntries)
	}
	return nil
}

// appendParsed adds one element of a repeated field to a bounded list.
func appendParsed[T any](f field, to *[]T, what string, limit int, parse func([]byte) (T, error)) error {
	if f.typ != protowire.BytesType {
		return malformed("protobuf: field %d is not text or a message", f.number)
	}
	if len(*to) == limit {
		return tooLarge(what, limit+1, limit)
	}
	element, err := parse(f.bytes)
	if err != nil {
		return err
	}
	*to = append(*to, element)
	return nil
}
