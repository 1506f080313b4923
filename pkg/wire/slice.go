package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// The codecs hold buffers worth sharing, no state: EncodeAll and DecodeAll
// remember nothing of what went through them and may be called at once. Made
// anew for each value they would cost more than everything else here.
var (
	//nolint:gochecknoglobals // a function with shared buffers, see above
	compressor = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithLowerEncoderMem(true))
	})
	//nolint:gochecknoglobals // a function with shared buffers, see above
	decompressor = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxSliceBytes), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderConcurrency(0))
	})
)

// The address types that a slice of the protocol can have.
const (
	addressTypeIPv4 = "IPv4"
	addressTypeIPv6 = "IPv6"
)

// EncodeSlice returns the value of an endpoint slice.
func EncodeSlice(s *service.Slice) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, encodeError(Slices, s.Namespace+"/"+s.Name, err) }
	if err := checkSlice(s); err != nil {
		return fail(err)
	}
	message := appendSlice(nil, s)
	if len(message) > MaxSliceBytes {
		return fail(tooLarge("bytes of the slice", len(message), MaxSliceBytes))
	}
	encoder, err := compressor()
	if err != nil {
		return fail(err)
	}
	value := encoder.EncodeAll(message, nil)
	if err := checkSize(value, MaxValueBytes); err != nil {
		return fail(err)
	}
	return value, nil
}

// DecodeSlice returns the endpoint slice that stands at key, its lists sorted
// as service.Slice says.
func (l Layout) DecodeSlice(key string, value []byte) (*service.Slice, error) {
	namespace, name, err := l.ParseSliceKey(key)
	if err != nil {
		return nil, err
	}
	message, err := decompress(value)
	if err != nil {
		return nil, decodeError(key, err)
	}
	s, err := parseSlice(message)
	if err != nil {
		return nil, decodeError(key, err)
	}
	if s.Cluster != l.Cluster {
		return nil, decodeError(key, fmt.Errorf("%w: %q", ErrWrongCluster, clip(s.Cluster)))
	}
	if s.Namespace != namespace || s.Name != name {
		return nil, decodeError(key, fmt.Errorf("%w: slice %q", ErrMismatch, clip(s.Namespace+"/"+s.Name)))
	}
	s.Service = s.Labels[service.LabelServiceName]
	s.Sort()
	if err := checkSlice(s); err != nil {
		return nil, decodeError(key, err)
	}
	return s, nil
}

// decompress never holds more than MaxSliceBytes, whatever the value claims.
func decompress(value []byte) ([]byte, error) {
	if err := checkSize(value, MaxValueBytes); err != nil {
		return nil, err
	}
	decoder, err := decompressor()
	if err != nil {
		return nil, err
	}
	message, err := decoder.DecodeAll(value, nil)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, fmt.Errorf("%w: over %d bytes decompressed", ErrTooLarge, MaxSliceBytes)
	case err != nil:
		return nil, malformed("%v", err)
	}
	return message, nil
}

func checkSlice(s *service.Slice) error {
	if err := checkCluster(s.Cluster, s.ClusterID); err != nil {
		return err
	}
	if err := checkNamespaced("endpoint slice", s.Namespace, s.Name); err != nil {
		return err
	}
	if err := checkName("service", s.Service); err != nil {
		return err
	}
	if s.Labels[service.LabelServiceName] != s.Service {
		return malformed("label %s does not name service %q", service.LabelServiceName, s.Service)
	}
	if err := checkMap("labels", s.Labels); err != nil {
		return err
	}
	if err := checkMap("annotations", s.Annotations); err != nil {
		return err
	}
	if len(s.Endpoints) > maxSliceEndpoints {
		return tooLarge("endpoints of a slice", len(s.Endpoints), maxSliceEndpoints)
	}
	for i := range s.Endpoints {
		if err := checkEndpoint(&s.Endpoints[i], s.IPv6); err != nil {
			return fmt.Errorf("endpoint %d: %w", i, err)
		}
	}
	if len(s.Ports) > maxSlicePorts {
		return tooLarge("ports of a slice", len(s.Ports), maxSlicePorts)
	}
	for _, p := range s.Ports {
		if err := checkPort(p); err != nil {
			return err
		}
	}
	return nil
}

func checkEndpoint(e *service.Endpoint, v6 bool) error {
	if len(e.Addresses) == 0 {
		return malformed("no address")
	}
	if len(e.Addresses) > maxEndpointAddresses {
		return tooLarge("addresses", len(e.Addresses), maxEndpointAddresses)
	}
	for _, ip := range e.Addresses {
		if err := checkAddressOf(ip, v6); err != nil {
			return err
		}
	}
	if err := checkPlace(e.Hostname, e.Zone, e.ForZones); err != nil {
		return err
	}
	return checkTexts([2]string{"node", e.Node}, [2]string{"target kind", e.TargetKind},
		[2]string{"target namespace", e.TargetNamespace}, [2]string{"target name", e.TargetName},
		[2]string{"target uid", e.TargetUID})
}

func checkAddressOf(ip netip.Addr, v6 bool) error {
	if err := checkIP(ip); err != nil {
		return err
	}
	if ip.Is6() != v6 {
		return malformed("address %s is not of the slice's family", ip)
	}
	return nil
}
