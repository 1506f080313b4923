package wire

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// BenchmarkDecodeSlice reads a slice of ten pods, of which a peer may have
// many thousands.
func BenchmarkDecodeSlice(b *testing.B) {
	s := &service.Slice{
		Cluster: "c1", ClusterID: 1, Namespace: "shop", Name: "web-x2x9z", Service: "web",
		Labels: map[string]string{service.LabelServiceName: "web"},
		Ports:  []service.Port{{Name: "http", Protocol: service.TCP, Port: 8080}},
	}
	for i := range 10 {
		s.Endpoints = append(s.Endpoints, service.Endpoint{
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})},
			Condition: service.Condition{Ready: true, Serving: true}, Node: fmt.Sprintf("node-%d", i),
			TargetKind: "Pod", TargetNamespace: "shop", TargetName: fmt.Sprintf("web-7d4b9c6f5d-%d", i),
		})
	}
	value, err := EncodeSlice(s)
	if err != nil {
		b.Fatal(err)
	}
	l := Layout{Cluster: "c1"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.DecodeSlice(l.SliceKey("shop", "web-x2x9z"), value); err != nil {
			b.Fatal(err)
		}
	}
}
