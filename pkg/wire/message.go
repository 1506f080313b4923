package wire

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

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
