package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"
)

// keyPeriod is the private key usage period of RFC 3280, 4.2.1.4. Its beginning
// says when a certificate was signed for a key, which may be long after the
// certificate's own beginning. Nobody refuses a certificate by it.
type keyPeriod struct {
	NotBefore time.Time `asn1:"generalized,optional,tag:0"`
	NotAfter  time.Time `asn1:"generalized,optional,tag:1"`
}

func keyPeriodID() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 16} }

// keyUsedFrom returns the extension that says so, in whole seconds.
func keyUsedFrom(from time.Time) (pkix.Extension, error) {
	der, err := asn1.Marshal(keyPeriod{NotBefore: from.UTC().Truncate(time.Second)})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode when a certificate is signed: %w", err)
	}
	return pkix.Extension{Id: keyPeriodID(), Value: der}, nil
}

// signedAt returns when a certificate was signed, if it says so and that is within
// its time.
func signedAt(cert *x509.Certificate) (time.Time, bool) {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(keyPeriodID()) {
			continue
		}
		var period keyPeriod
		rest, err := asn1.Unmarshal(e.Value, &period)
		at := period.NotBefore
		return at, err == nil && len(rest) == 0 && !at.Before(cert.NotBefore) && at.Before(cert.NotAfter)
	}
	return time.Time{}, false
}
