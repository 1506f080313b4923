package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// reviseEvery is how often it is looked whether a pair on disk has ended that is renewed
// elsewhere. Who follows the peer renews its own long before.
const reviseEvery = time.Minute

// renewed has what is on disk of a cluster written to its record, if it is newer.
func (b *book) renewed(name string) {
	b.mu.Lock()
	b.ahead[name] = true
	b.mu.Unlock()
	select {
	case b.writes <- struct{}{}:
	default:
	}
}

// writeAll writes to etcd what was renewed on disk.
func (b *book) writeAll(ctx context.Context) bool {
	b.mu.Lock()
	names := slices.Sorted(maps.Keys(b.ahead))
	clear(b.ahead) // what is renewed from here on wakes again
	b.mu.Unlock()
	all := true
	for _, name := range names {
		if err := b.writeBack(ctx, name); err != nil {
			if b.unwritten.due(ctx, err) {
				b.log.Warn("renewed certificate is not in the record of the joined cluster yet, will retry", "cluster", name, "error", err)
			}
			b.mu.Lock()
			b.ahead[name] = true
			b.mu.Unlock()
			all = false
		}
	}
	return all
}

// writeBack compares with the record that is there when it is replaced: a disconnect or
// another join in between wins.
func (b *book) writeBack(ctx context.Context, name string) error {
	if b.member(name).Reads == nil {
		return nil
	}
	return b.swap(ctx, name, nil, func(m member) (member, error) {
		b.saving.Lock() // so that the files are of one join
		defer b.saving.Unlock()
		return b.files.renewed(name, m), nil
	})
}

// renewed returns the record with the pair and the authorities on disk, if these are of
// the same join and newer.
func (f files) renewed(name string, m member) member {
	if m.Reads == nil {
		return m
	}
	if same, _ := f.of(name, m.Reads); !same {
		return m
	}
	there := paths(f.peer(name)).Held() // while they are changed it is told again after it
	if !ahead(there, m.Reads) {
		return m
	}
	next := *m.Reads // the record that is known has the other one
	next.Origin = m.Reads.origin()
	next.CA, next.Cert, next.Key = string(there.CA), string(there.Pair.CertPEM), string(there.Pair.KeyPEM)
	m.Reads = &next
	return m
}

// ahead reports whether what is on disk is to be in the record of the same join: a valid
// pair of a later time, or one that is trusted where the record's is not any more, or the
// same pair with other authorities, none of an earlier time. Of the pairs of several replicas the newest
// stands there, and who has an older one writes nothing.
func ahead(there pki.Held, r *reading) bool {
	own, joined := leaf(there.Pair), leaf(pairOf(r))
	if own == nil || joined == nil || !signed(there.CA, there.Pair, joined) {
		return false
	}
	record := heldOf(r)
	if own.Equal(joined) {
		return !bytes.Equal(there.CA, record.CA) && !later(record, there)
	}
	return later(there, record) || !later(record, there) && !signed(there.CA, record.Pair, joined)
}

// later reports whether a is of a later time of the peer's than b: it trusts an authority
// that was made later, or, where both trust the same, its certificate was signed later.
// By the time of signing alone a pair of an authority that is gone, which a clock that
// was ahead signed, would stay the newest.
func later(a, b pki.Held) bool {
	if of, than := madeAt(a.CA), madeAt(b.CA); !of.Equal(than) {
		return of.After(than)
	}
	return pki.Newer(leaf(a.Pair), leaf(b.Pair))
}

// madeAt is when the newest of some authorities was made.
func madeAt(authorities []byte) (newest time.Time) {
	for _, cert := range pki.Certificates(authorities) {
		if cert.NotBefore.After(newest) {
			newest = cert.NotBefore
		}
	}
	return newest
}

// dropped reports whether the authorities now are those of before without some, the newest
// not among them: a peer ends a replacement so.
func dropped(now, before []byte) bool {
	if !madeAt(now).Equal(madeAt(before)) {
		return false
	}
	left, there := pki.Certificates(now), pki.Certificates(before)
	return len(left) < len(there) && !slices.ContainsFunc(left, func(one *x509.Certificate) bool { return !slices.ContainsFunc(there, one.Equal) })
}

func heldOf(r *reading) pki.Held { return pki.Held{CA: []byte(r.CA), Pair: pairOf(r)} }

// better returns what the files of a peer are to hold: what is there, or what the record
// says. same says that both are of the same join. Then a valid pair stays, since each
// replica renews its own over its own connection, which goes on with it; unless the peer
// has dropped the authority that signed it, and the record's is newer. One that has
// ended goes. The authorities go with the pair.
func better(there pki.Held, r *reading, same, known bool) pki.Held {
	record := heldOf(r)
	own, joined := leaf(there.Pair), leaf(record.Pair)
	switch {
	case own == nil || joined == nil:
		return record
	case !same:
		if !known && follows(there.Pair, own, joined, record.CA) {
			record.Pair = there.Pair
		}
		return record
	case !signed(there.CA, there.Pair, joined):
		return record
	case !signed(record.CA, there.Pair, joined) && signed(record.CA, record.Pair, joined) && (later(record, there) || dropped(record.CA, there.CA) && !pki.Newer(own, joined)):
		return record
	}
	return there
}

// follows reports whether a pair that is there from before it was kept of which join it is
// comes of the one of the record by renewal in place: the same authority signed it for
// the same subject, it begins no earlier, since what begins earlier may have been taken
// back, and it ends later.
func follows(pair pki.Pair, own, joined *x509.Certificate, authorities []byte) bool {
	return signed(authorities, pair, joined) && !own.NotBefore.Before(joined.NotBefore) && own.NotAfter.After(joined.NotAfter)
}

// signed reports whether one of the authorities signed the pair for the subject of another
// certificate, and it is valid.
func signed(authorities []byte, pair pki.Pair, as *x509.Certificate) bool {
	subject, err := pki.SubjectOf(as)
	if err != nil {
		return false
	}
	for block, rest := pem.Decode(authorities); block != nil; block, rest = pem.Decode(rest) {
		_, err := pki.CheckClient(pem.EncodeToMemory(block), pair.CertPEM, pair.KeyPEM, subject)
		if err == nil {
			return true
		}
	}
	return false
}

func pairOf(r *reading) pki.Pair { return pki.Pair{CertPEM: []byte(r.Cert), KeyPEM: []byte(r.Key)} }

// leaf is nil for what is no pair.
func leaf(pair pki.Pair) *x509.Certificate {
	both, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return nil
	}
	return both.Leaf
}

// revise takes over the record's pair where the one on disk has ended, which no change
// of the record tells.
func (b *book) revise(now time.Time) {
	for name, m := range b.all() {
		if m.Reads == nil {
			continue
		}
		cert, err := paths(b.files.peer(name)).Certificate()
		joined := leaf(pairOf(m.Reads))
		if err == nil && joined != nil && now.After(cert.NotAfter) && now.Before(joined.NotAfter) {
			b.save(name)
		}
	}
}
