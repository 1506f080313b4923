package publish

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// Out of quota an identity for new labels is not to be had, and what waits for it
// waits. What goes from the source goes from etcd all the same, and the own
// cluster is told of workloads whose labels are known.
func TestPublishDeletesOutOfQuota(t *testing.T) {
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: t.TempDir(), QuotaBytes: 8 << 20, Logger: quiet()})
	run(t, server.Run)
	etcd, err := server.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	w := &world{t: t, etcd: etcd, manifests: t.TempDir(), state: t.TempDir()}
	first := newPod("first", "10.1.0.200", "app: known")
	w.edit("east.yaml", func(text string) string { return text + first })
	p := w.start()
	w.published()
	value := bytes.Repeat([]byte("x"), 128<<10)
	for n := 0; etcd.Put(t.Context(), fmt.Sprint("large/", n), value) == nil; n++ { // keys, which no compaction makes fewer
	}

	w.edit("east.yaml", func(text string) string {
		return strings.ReplaceAll(text, `service.cilium.io/global: "true"`, "service.cilium.io/global: \"true\"\n      service.cilium.io/shared: \"false\"") +
			first + newPod("second", "10.1.0.201", "app: known") + newPod("other", "10.1.0.202", "app: another")
	})
	eventually(t, func() error {
		if err := p.Err(); !errors.Is(err, kvstore.ErrNoSpace) {
			return fmt.Errorf("it is said that %w", err)
		}
		return nil
	})
	layout := wire.Layout{Cluster: "east"}
	eventually(t, func() error {
		if left := w.keys(layout.Prefix(wire.Slices)); len(left) > 0 {
			return fmt.Errorf("%d slices are still published", len(left))
		}
		return nil
	})
	local := func(ip string) *endpoint.Address {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.local.Addresses[netip.MustParsePrefix(ip+"/32")]
	}
	eventually(t, func() error {
		if a, b := local("10.1.0.200"), local("10.1.0.201"); b == nil || a.Identity != b.Identity {
			return fmt.Errorf("two Pods with the same labels are %v and %v", a, b)
		}
		return nil
	})
	if local("10.1.0.202") != nil {
		t.Error("new labels have an identity that nobody else can know")
	}
}

func newPod(name, ip, labels string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {%s}}
spec: {nodeName: east-1}
status: {phase: Running, podIP: %s, podIPs: [{ip: %s}], conditions: [{type: Ready, status: "True"}]}
`, name, labels, ip, ip)
}
