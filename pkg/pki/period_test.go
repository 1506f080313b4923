package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"
)

// However long ago the certificate begins that another one follows, it is renewed
// at two thirds of its own time.
func TestRenewAtOfFollowing(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	began := time.Now().Add(-10 * week).Truncate(time.Second)
	for _, ttl := range []time.Duration{30 * time.Second, time.Hour, week} {
		now := time.Now()
		cert := parse(t, issue(t, a, Request{Role: RolePeer, Name: "west", TTL: ttl, NotBefore: now, Begins: began}).CertPEM)
		if !cert.NotBefore.Equal(began) {
			t.Errorf("begins at %s, want %s", cert.NotBefore, began)
		}
		// Whole seconds; and the test may have been stopped in between.
		if got := RenewAt(cert).Sub(now); got < ttl*2/3-time.Second || got > ttl*2/3+10*time.Second+time.Since(now) {
			t.Errorf("%s: renewed after %s", ttl, got)
		}
	}
}

// What another maker says there that makes no sense is not followed.
func TestSignedAt(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := func(value []byte) *x509.Certificate {
		return &x509.Certificate{
			NotBefore: begin, NotAfter: begin.Add(time.Hour),
			Extensions: []pkix.Extension{{Id: []int{2, 5, 29, 15}}, {Id: keyPeriodID(), Value: value}},
		}
	}
	at := func(from time.Time) []byte {
		e, err := keyUsedFrom(from)
		if err != nil {
			t.Fatal(err)
		}
		return e.Value
	}
	for name, value := range map[string][]byte{
		"nothing": nil, "no times": {0x30, 0}, "another form": {0x05, 0}, "more behind": append(at(begin.Add(time.Minute)), 0),
		"before": at(begin.Add(-time.Second)), "after": at(begin.Add(2 * time.Hour)),
	} {
		if got, ok := signedAt(cert(value)); ok {
			t.Errorf("%s: %s", name, got)
		}
	}
	want := begin.Add(10 * time.Minute)
	if got, ok := signedAt(cert(at(want))); !ok || !got.Equal(want) {
		t.Errorf("%s, %t", got, ok)
	}
}
