package publish

import (
	"encoding/json"
	"testing"
)

// FuzzClaim: whatever stands in etcd, a claim that is taken is the same when it
// is written again, and what does not parse names no labels.
func FuzzClaim(f *testing.F) {
	f.Add("65836", []byte(`{"labels":"k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;"}`))
	f.Add("65836", []byte(`{"labels":"k8s:app=web;","freed":"2026-01-02T03:04:05.000000006+01:00"}`))
	f.Add("4294967296", []byte(`{}`))
	f.Add("x", []byte(`null`))
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		n, c, err := parseClaim(ClaimPrefix+name, value)
		if err != nil {
			if c.Labels != "" || !c.Freed.IsZero() {
				t.Errorf("%v, and yet %+v", err, c)
			}
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatalf("%q was read but cannot be written: %v", value, err)
		}
		m, d, err := parseClaim(ClaimPrefix+n.String(), again)
		if err != nil || m != n || d.Labels != c.Labels || !d.Freed.Equal(c.Freed) {
			t.Errorf("%q, %+v came back as %d, %+v, error %v", name, c, m, d, err)
		}
	})
}
