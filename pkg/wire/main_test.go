package wire_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// layouts are both places where a cluster's state may stand.
func layouts(cluster string) []wire.Layout {
	return []wire.Layout{{Cluster: cluster}, {Cluster: cluster, Cached: true}}
}

// compareValues lets cmp look at addresses.
var compareValues = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func ips(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, ip(text))
	}
	return all
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, prefix(text))
	}
	return all
}
