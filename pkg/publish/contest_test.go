package publish

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// podText is a running Pod with an address, made at a time of 2026, "" for none.
func podText(name, ip, made string) string {
	created := ""
	if made != "" {
		created = "\n  creationTimestamp: 2026-" + made + "T00:00:00Z"
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: shop
  labels: {app: %s}%s
spec: {nodeName: n1}
status: {phase: Running, podIP: %s, podIPs: [{ip: %s}]}
`, name, name, created, ip, ip)
}

// manifest writes a file of the directory, or removes it.
func (w *world) manifest(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.manifests, name+".yaml")
	err := error(nil)
	if text == "" {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// awaitPod waits until peers read that an address is a Pod's, "" for nobody's.
func (w *world) awaitPod(ip, want string) {
	w.t.Helper()
	l := wire.Layout{Cluster: "east"}
	key := l.AddressKey(netip.PrefixFrom(netip.MustParseAddr(ip), 32))
	eventually(w.t, func() error {
		got := ""
		if value, ok := w.keys(key)[key]; ok {
			a, err := l.DecodeAddress(key, []byte(value))
			if err != nil {
				return err
			}
			got = a.Pod
			if id := l.IdentityKey(a.Identity); !strings.Contains(w.keys(id)[id], "k8s:app="+want+";") {
				return fmt.Errorf("%s has identity %d, which is %q", ip, a.Identity, w.keys(id)[id])
			}
		}
		if got != want {
			return fmt.Errorf("%s is %q's, want %q", ip, got, want)
		}
		return nil
	})
}

func TestTwoPodsClaimOneAddress(t *testing.T) {
	for _, tc := range []struct{ name, first, second string }{
		{"made one after the other", "01-02", "01-03"},
		{"it is not said when", "", ""},
		{"it is said of one when", "01-02", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &world{t: t, etcd: openEtcd(t), manifests: t.TempDir(), state: t.TempDir()}
			w.manifest("b", podText("b", "10.0.0.5", tc.first))
			p := w.start()
			w.awaitPod("10.0.0.5", "b")
			w.manifest("a", podText("a", "10.0.0.5", tc.second))
			eventually(t, func() error {
				const want = "Pod shop/a: its address 10.0.0.5 is held by Pod shop/b, which was there first"
				if got := p.Problems(); len(got) != 1 || !strings.HasPrefix(got[0], want) {
					return fmt.Errorf("problems: %q", got)
				}
				return nil
			})
			w.awaitPod("10.0.0.5", "b")
			if tc.first != "" { // else nothing says who was first once all is read anew
				w.stop()
				p = w.start()
				w.published()
				w.awaitPod("10.0.0.5", "b")
			}
			w.manifest("b", "")
			w.awaitPod("10.0.0.5", "a")
			if got := p.Problems(); len(got) > 0 {
				t.Errorf("problems: %q", got)
			}
			w.manifest("a", podText("a", "10.0.0.6", tc.second))
			w.awaitPod("10.0.0.5", "")
			w.awaitPod("10.0.0.6", "a")
		})
	}
}

// A namespace that is kept at home goes from the peers' view whole, its clients
// keep their services, and it comes back as it was.
func TestNamespaceMadeNotGlobalAndBack(t *testing.T) {
	w := newWorld(t, "east.yaml")
	w.manifest("pod", podText("lonely", "10.0.0.9", ""))
	w.start()
	w.published()
	w.awaitPod("10.0.0.9", "lonely")
	before := w.keys("cilium/state/")
	const labels = "labels:\n      kubernetes.io/metadata.name: shop\n"
	w.edit("east.yaml", func(text string) string {
		home := strings.Replace(text, labels, "annotations: {clustermesh.cilium.io/global: \"false\"}\n    "+labels, 1)
		if home == text {
			t.Fatal("the dump has changed")
		}
		return home
	})
	eventually(t, func() error {
		for key, value := range w.keys("cilium/state/") {
			if strings.Contains(key, "/shop/") || strings.Contains(value, `"shop"`) || strings.Contains(value, "namespace=shop;") {
				return fmt.Errorf("peers still read %s", key)
			}
			if before[key] != value {
				return fmt.Errorf("%s has changed", key)
			}
		}
		return nil
	})
	eventually(t, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for name, s := range w.local.Services {
			if name.Namespace == "shop" && (s == nil || s.Global || s.Shared) {
				return fmt.Errorf("the own cluster has %s as %+v", name, s)
			}
		}
		if w.local.Addresses[netip.MustParsePrefix("10.0.0.9/32")] == nil {
			return fmt.Errorf("the own cluster does not know a Pod of its own any more")
		}
		return nil
	})
	w.edit("east.yaml", func(text string) string { return text })
	eventually(t, func() error {
		after := w.keys("cilium/state/")
		for key, value := range before {
			if after[key] != value {
				return fmt.Errorf("%s is %q, was %q", key, after[key], value)
			}
		}
		if len(after) != len(before) {
			return fmt.Errorf("%d keys, were %d", len(after), len(before))
		}
		return nil
	})
}
