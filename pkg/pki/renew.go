package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// lockWait is for how long others are waited for; a renewal is one call over a network.
const lockWait = 5 * time.Second

// RenewAt is when a certificate is to be renewed: at two thirds of the time from
// when it was signed to its end. By how much its beginning was put back, for the
// clocks of others or since it follows another certificate, is no part of that.
// One that does not say when it was signed was so after its beginning.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(signedFrom(cert)) / 3)
}

// signedFrom is when a certificate was signed, as far as it says so.
func signedFrom(cert *x509.Certificate) time.Time {
	from, told := signedAt(cert)
	if !told {
		from = cert.NotBefore
		if cert.NotAfter.Sub(from) > backdate {
			from = from.Add(backdate)
		}
	}
	return from
}

// Certificate returns the client's own certificate, whatever its time.
func (f ClientFiles) Certificate() (*x509.Certificate, error) {
	text, err := os.ReadFile(f.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	return parseCertificate("client certificate "+f.CertFile, text)
}

// nextKey is where the key of a certificate lies before that replaces the old
// one, and after it when the process ended before it was done.
func (f ClientFiles) nextKey() string { return f.hidden(".next") }

// hidden returns a path beside the key's. Directories of peer files are passed
// over by name: their readers take nothing that begins with a dot.
func (f ClientFiles) hidden(suffix string) string {
	dir, name := filepath.Split(f.KeyFile)
	return filepath.Join(dir, "."+name+suffix)
}

// Renew replaces certificate and key with a new pair for the same subject when
// their time has come by now, and says whether it did. sign answers a PEM signing
// request with a PEM chain; it is not asked when the answer could not be kept.
// Whenever this is broken off, the files hold a pair that load finds. One at a time
// changes them: who has it is waited for a while, and ErrBusy returned in the end.
func (f ClientFiles) Renew(now time.Time, sign func(csrPEM []byte) (chainPEM []byte, err error)) (bool, error) {
	return f.renew(now, RenewAt, sign)
}

// RenewEarly is Renew for a certificate whose time has not come: another authority
// signs from now on.
func (f ClientFiles) RenewEarly(now time.Time, sign func(csrPEM []byte) (chainPEM []byte, err error)) (bool, error) {
	return f.renew(now, func(*x509.Certificate) time.Time { return now }, sign)
}

func (f ClientFiles) renew(now time.Time, at func(*x509.Certificate) time.Time, sign func(csrPEM []byte) (chainPEM []byte, err error)) (bool, error) {
	before, err := f.due(now, at)
	if before == nil {
		return false, err
	}
	unlock, err := f.await()
	if err != nil {
		return false, err
	}
	defer unlock()
	old, err := f.due(now, at)
	if old == nil || !old.Equal(before) { // somebody was quicker
		return false, err
	}
	mode, err := f.keyMode()
	if err != nil {
		return false, err
	}
	keyPEM, csrPEM, err := NewSigningRequest()
	if err != nil {
		return false, err
	}
	if err := file.Write(f.nextKey(), keyPEM, mode); err != nil {
		return false, err
	}
	chainPEM, err := sign(csrPEM)
	if err == nil {
		err = f.checkRenewed(old, chainPEM, keyPEM, now)
	}
	if err != nil {
		return false, errors.Join(err, os.Remove(f.nextKey()))
	}
	if err := file.Write(f.CertFile, chainPEM, 0o644); err != nil {
		return false, err
	}
	return true, f.finish()
}

// Held is what the files of a client hold at one moment: CA is empty where it can not
// be read, Pair where certificate and key are not there or do not belong together.
type Held struct {
	CA   []byte
	Pair Pair
}

// Held returns what the files hold. It does not wait for who changes them: where that is
// so, the pair may be empty, or other than the authorities are for.
func (f ClientFiles) Held() (held Held) {
	if text, err := os.ReadFile(f.CAFile); err == nil {
		held.CA = text
	}
	if pair, ok := f.pair(); ok {
		held.Pair = pair
	}
	return held
}

// Replace makes the files hold what decide returns for what they hold, a renewal that
// was broken off being finished; nobody else changes them meanwhile. Where decide
// returns what is there, nothing is written. It waits a while for who renews the
// pair, and returns ErrBusy in the end.
func (f ClientFiles) Replace(decide func(there Held) Held) error {
	unlock, err := f.await()
	if err != nil {
		return err
	}
	defer unlock()
	if err := f.finish(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there := f.Held()
	next := decide(there)
	if !bytes.Equal(next.CA, there.CA) {
		if err := file.Write(f.CAFile, next.CA, 0o644); err != nil {
			return err
		}
	}
	if bytes.Equal(next.Pair.CertPEM, there.Pair.CertPEM) && bytes.Equal(next.Pair.KeyPEM, there.Pair.KeyPEM) {
		return nil
	}
	return next.Pair.Save(f.CertFile, f.KeyFile)
}

// Newer reports whether a was signed later than b, which one follows from the other by
// renewal; of two that were signed at the same time the one that ends later is newer.
func Newer(a, b *x509.Certificate) bool {
	if of, than := signedFrom(a), signedFrom(b); !of.Equal(than) {
		return of.After(than)
	}
	return a.NotAfter.After(b.NotAfter)
}

// pair returns certificate and key when they belong together.
func (f ClientFiles) pair() (Pair, bool) {
	certPEM, certErr := os.ReadFile(f.CertFile)
	keyPEM, keyErr := os.ReadFile(f.KeyFile)
	if certErr != nil || keyErr != nil {
		return Pair{}, false
	}
	_, err := tls.X509KeyPair(certPEM, keyPEM)
	return Pair{CertPEM: certPEM, KeyPEM: keyPEM}, err == nil
}

// due finishes an earlier renewal, and returns the certificate if it has to be
// renewed and can be.
func (f ClientFiles) due(now time.Time, at func(*x509.Certificate) time.Time) (*x509.Certificate, error) {
	if err := f.finish(); err != nil {
		return nil, err
	}
	cert, err := f.Certificate()
	if err != nil || now.Before(at(cert)) {
		return nil, err
	}
	if err := checkTime("client certificate "+f.CertFile, cert, now); err != nil {
		return nil, err
	}
	return cert, nil
}

// await is lock that waits a while for who has it.
func (f ClientFiles) await() (unlock func(), err error) {
	unlock, err = f.lock()
	for until := time.Now().Add(lockWait); errors.Is(err, ErrBusy) && time.Now().Before(until); unlock, err = f.lock() {
		<-time.After(lockWait / 50)
	}
	return unlock, err
}

// lock does not wait: who has it asks somebody over a network.
func (f ClientFiles) lock() (unlock func(), err error) {
	file, err := os.OpenFile(f.hidden(".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("renew the client certificate: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, errors.Join(fmt.Errorf("lock %q: %w", file.Name(), err), file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// finish puts the next key in its place if the certificate is already its own.
func (f ClientFiles) finish() error {
	next, err := os.ReadFile(f.nextKey())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var certPEM []byte
	if err == nil {
		certPEM, err = os.ReadFile(f.CertFile)
	}
	if err != nil {
		return fmt.Errorf("finish an earlier renewal: %w", err)
	}
	if _, err := tls.X509KeyPair(certPEM, next); err != nil {
		return nil //nolint:nilerr // one that was broken off before, which Renew begins anew
	}
	// Another process may finish the same at the same time.
	if err := os.Rename(f.nextKey(), f.KeyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the client key: %w", err)
	}
	if err := file.SyncDir(filepath.Dir(f.KeyFile)); err != nil {
		return fmt.Errorf("replace the client key: %w", err)
	}
	return nil
}

// keyMode is that of the present key, without what everybody may.
func (f ClientFiles) keyMode() (os.FileMode, error) {
	info, err := os.Stat(f.KeyFile)
	if err != nil {
		return 0, fmt.Errorf("read client key: %w", err)
	}
	return info.Mode().Perm() &^ 0o007, nil
}

// checkRenewed refuses an answer that would be worse than what is there.
func (f ClientFiles) checkRenewed(old *x509.Certificate, chainPEM, keyPEM []byte, now time.Time) error {
	const what = "the renewed certificate"
	if len(chainPEM) > maxText {
		return fmt.Errorf("%s has %d bytes, more than %d: %w", what, len(chainPEM), maxText, ErrCertificate)
	}
	pair, err := tls.X509KeyPair(chainPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrCertificate, err)
	}
	want, err := SubjectOf(old)
	if err != nil {
		return err
	}
	if got, err := SubjectOf(pair.Leaf); err != nil || got != want {
		return fmt.Errorf("%s is for %q, not for %q: %w", what, pair.Leaf.URIs, want, ErrSubject)
	}
	if err := checkTime(what, pair.Leaf, now); err != nil {
		return err
	}
	// Another authority signs for as long as it likes: the old one's end may be forged.
	if pair.Leaf.NotAfter.Before(old.NotAfter) && f.sameSigner(chainPEM) {
		return fmt.Errorf("%s ends at %s, before the old one: %w", what, pair.Leaf.NotAfter.UTC().Format(time.RFC3339), ErrCertificate)
	}
	if err := f.checkSigned(chainPEM, keyPEM, want); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// sameSigner says that a chain is of the authority that the certificate which is there
// is of.
func (f ClientFiles) sameSigner(chainPEM []byte) bool {
	text, err := os.ReadFile(f.CAFile)
	_, signer, oldErr := f.Trusted()
	if err != nil || oldErr != nil {
		return true
	}
	by := signerOf(chainPEM, Certificates(text))
	return by != nil && Fingerprint(by) == signer
}

// checkSigned refuses what none of the trusted authorities signed, of which there
// are two while one replaces the other.
func (f ClientFiles) checkSigned(chainPEM, keyPEM []byte, want Subject) error {
	text, err := os.ReadFile(f.CAFile)
	if err != nil {
		return fmt.Errorf("read trusted certificates: %w", err)
	}
	err = fmt.Errorf("%s holds no PEM certificate: %w", f.CAFile, ErrCertificate)
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue
		}
		if _, err = CheckClient(pem.EncodeToMemory(block), chainPEM, keyPEM, want); err == nil {
			return nil
		}
	}
	return err
}
