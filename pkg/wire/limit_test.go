package wire_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// A value over its kind's limit is refused before it is parsed, and is not made.
func TestLimitsOfKinds(t *testing.T) {
	t.Parallel()
	l := wire.Layout{Cluster: "c1"}
	prefix := netip.MustParsePrefix("10.1.0.1/32")
	address := endpoint.Address{Cluster: "c1", Prefix: prefix, Identity: 5, Namespace: "shop"}
	for name, c := range map[string]struct {
		limit  int
		decode func([]byte) error
		encode func(text string) error
	}{
		"node": {wire.MaxNodeBytes, func(value []byte) error {
			_, err := l.DecodeNode(l.NodeKey("n1"), value)
			return err
		}, func(text string) error {
			_, err := wire.EncodeNode(&node.Node{Cluster: "c1", ClusterID: 1, Name: "n1", Annotations: map[string]string{"a": text}})
			return err
		}},
		"identity": {wire.MaxIdentityBytes, func(value []byte) error {
			_, err := l.DecodeIdentity(l.IdentityKey(300), value)
			return err
		}, nil},
		"address": {wire.MaxAddressBytes, func(value []byte) error {
			_, err := l.DecodeAddress(l.AddressKey(prefix), value)
			return err
		}, func(text string) error {
			a := address
			for range len(text) / 1000 {
				a.NamedPorts = append(a.NamedPorts, endpoint.NamedPort{Name: text[:1000], Protocol: "TCP", Port: 80})
			}
			_, err := wire.EncodeAddress(&a)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := c.decode([]byte(strings.Repeat(" ", c.limit))); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("a value of the limit, which does not parse: %v", err)
			}
			if err := c.decode([]byte(strings.Repeat(" ", c.limit+1))); !errors.Is(err, wire.ErrTooLarge) {
				t.Errorf("a value over the limit: %v", err)
			}
			if c.encode == nil {
				return
			}
			if err := c.encode(strings.Repeat("x", c.limit/2)); err != nil {
				t.Errorf("half of the limit is not encoded: %v", err)
			}
			if err := c.encode(strings.Repeat("x", c.limit)); !errors.Is(err, wire.ErrTooLarge) {
				t.Errorf("what is over the limit is encoded: %v", err)
			}
		})
	}
}
