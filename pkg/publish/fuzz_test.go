package publish

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/identity"
)

// FuzzClaim: whatever stands in etcd, a claim that is taken is the same when it
// is written again, and what does not parse names no labels.
func FuzzClaim(f *testing.F) {
	f.Add("65836", []byte(`{"labels":"k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;"}`))
	f.Add("65836", []byte(`{"labels":"k8s:app=web;","freed":"2026-01-02T03:04:05.000000006+01:00"}`))
	f.Add("4294967296", []byte(`{}`))
	f.Add("x", []byte(`null`))
	a := newAllocator(Config{Cluster: east}, identitySpace(east.ID, east.Size), "", nil)
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		n, c, err := a.parse(ClaimPrefix+name, value)
		if err != nil {
			if !c.nobody() || !c.Freed.IsZero() {
				t.Errorf("%v, and yet %+v", err, c)
			}
			return
		}
		again := a.encode(c)
		m, d, err := a.parse(ClaimPrefix+n.String(), again)
		if err != nil || m != n || d.Holder != c.Holder || !d.Freed.Equal(c.Freed) {
			t.Errorf("%q, %+v came back as %d, %+v, error %v", name, c, m, d, err)
		}
	})
}

// FuzzLedger gives the ledger any file, and any content with the checksum that
// belongs to it, which no fuzzer finds by itself: what it takes is the same when
// it is saved and loaded again.
func FuzzLedger(f *testing.F) {
	f.Add([]byte("{\"number\":65836,\"labels\":\"k8s:app=web;\"}\n{\"number\":65837,\"labels\":\"k8s:app=db;\",\"freed\":\"2026-01-02T03:04:05Z\"}\n"))
	f.Add([]byte("{\"number\":65836}\n{\"number\":65836,\"labels\":\"x\"}\nnull\n"))
	f.Add([]byte("{\"version\":1}\n"))
	path := filepath.Join(f.TempDir(), "identities")
	f.Fuzz(func(t *testing.T, text []byte) {
		l := identityLedger{path: path, cluster: east, space: identitySpace(east.ID, east.Size)}
		if claims, err := l.parse(text); err == nil && len(claims) > 0 {
			t.Errorf("%q has claims without a checksum: %v", text, claims)
		}
		head, err := json.Marshal(l.head(text))
		if err != nil {
			t.Fatal(err)
		}
		claims, err := l.parse(append(append(head, '\n'), text...))
		if err != nil {
			return
		}
		maps.DeleteFunc(claims, func(_ identity.Number, c labelled) bool { return c.nobody() }) // not saved
		if err := l.save(claims); err != nil {
			t.Fatal(err)
		}
		again, err := l.load()
		same := func(a, b labelled) bool { return a.Holder == b.Holder && a.Freed.Equal(b.Freed) }
		if err != nil || !maps.EqualFunc(claims, again, same) {
			t.Errorf("%v came back as %v, error %v", claims, again, err)
		}
	})
}
