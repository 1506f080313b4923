package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// Stage is how far the replacement of an authority is.
type Stage string

// The stages, in their order.
const (
	// Single: there is one authority.
	Single Stage = ""
	// Spreading: both are trusted, the old one signs.
	Spreading Stage = "spreading"
	// Replacing: both are trusted, the new one signs.
	Replacing Stage = "replacing"
	// finishing is on disk only: the old one is being deleted.
	finishing Stage = "finishing"
)

// What a replacement keeps in the directory besides.
const (
	// nextDir is the next authority's directory until it is the only one.
	nextDir = "next"
	// recordFile alone decides which stage it is.
	recordFile = "rotation.json"
)

// record is what recordFile says. Without it there was never a replacement.
type record struct {
	Stage Stage `json:"stage"`
	// Started is when the replacement began, or the last one did.
	Started time.Time `json:"started"`
	// Replaced is the fingerprint of the authority that was replaced last.
	Replaced string `json:"replaced,omitempty"`
}

// Root is one of the certificates that sign, or will.
type Root struct {
	// Fingerprint is the SHA-256 of the certificate, as invitations have it.
	Fingerprint [sha256.Size]byte
	Begins      time.Time
	Ends        time.Time
	// Signs says that what is signed now is signed by it.
	Signs bool
}

// Fingerprint is the SHA-256 of a certificate.
func Fingerprint(cert *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(cert.Raw) }

// load reads what is in the directory, whose lock the caller holds.
func (a *Authority) load(now time.Time) error {
	if err := a.readRecord(); err != nil {
		return err
	}
	if a.record.Stage == finishing {
		if err := a.deleteOld(); err != nil {
			return err
		}
	}
	old, err := openRoot(a.dir, a.cluster, "authority of "+a.cluster, now)
	if errors.Is(err, ErrExpired) && a.record.Stage == Replacing {
		if err = a.endExpired(now); err == nil {
			old, err = openRoot(a.dir, a.cluster, "authority of "+a.cluster, now)
		}
	}
	if err != nil {
		return err // what was loaded before goes on
	}
	a.old, a.next, a.stage = old, nil, a.record.Stage
	if a.stage == Single { // one that was never begun may lie there
		if _, err := os.Stat(filepath.Join(a.dir, nextDir)); err == nil {
			if err := a.writeTrusted(); err != nil {
				return err
			}
		}
		return os.RemoveAll(filepath.Join(a.dir, nextDir))
	}
	if a.next, err = a.openNext(now); err != nil {
		return err
	}
	return a.writeTrusted()
}

// endExpired finishes where the old authority's time has ended: nobody takes it any
// more, and the next one signs already.
func (a *Authority) endExpired(now time.Time) error {
	if _, err := a.openNext(now); err != nil {
		return err
	}
	old := &root{cluster: a.cluster, dir: a.dir}
	if err := old.open(""); err != nil {
		return err
	}
	if err := a.writeFinishing(old); err != nil {
		return err
	}
	return a.deleteOld()
}

// openNext loads the authority that is to replace the present one.
func (a *Authority) openNext(now time.Time) (*root, error) {
	dir := filepath.Join(a.dir, nextDir)
	for _, name := range []string{CAFile, caKeyFile} { // openRoot would make another one
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("the next authority is missing, and %s says that there is one; restore both from the same backup: %w: %w",
				filepath.Join(a.dir, recordFile), ErrCertificate, err)
		}
	}
	return openRoot(dir, a.cluster, "", now)
}

func (a *Authority) readRecord() error {
	path := filepath.Join(a.dir, recordFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		a.record = record{}
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &a.record)
	}
	if err == nil && !slices.Contains([]Stage{Single, Spreading, Replacing, finishing}, a.record.Stage) {
		err = fmt.Errorf("stage %q", a.record.Stage)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeRecord returns no error when r is what the next start reads, unless the power
// fails before the disk has it.
func (a *Authority) writeRecord(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode %s: %w", recordFile, err)
	}
	if err := file.Write(filepath.Join(a.dir, recordFile), text, 0o600); err != nil && !a.reads(text) {
		return err
	}
	a.record = r
	return nil
}

// reads says that text is the record on the disk: writeFile may fail after it has
// replaced the file.
func (a *Authority) reads(text []byte) bool {
	got, err := os.ReadFile(filepath.Join(a.dir, recordFile))
	return err == nil && bytes.Equal(got, text)
}

// writeTrusted makes the file of what is trusted say what is.
func (a *Authority) writeTrusted() error {
	return WriteFile(a.CertFile(), bundle(a.old, a.next), 0o644)
}

func bundle(roots ...*root) (out []byte) {
	for _, r := range roots {
		if r != nil {
			out = append(out, r.certPEM...)
		}
	}
	return out
}

// Begin makes the authority that is to replace the present one, which goes on
// signing. Both are trusted from now on, also after a restart. An error that wraps
// ErrStage says that it was done before; another one that it is as before.
func (a *Authority) Begin() error {
	return a.change(Single, func() error {
		dir := filepath.Join(a.dir, nextDir)
		now := time.Now()
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), file.SyncDir(a.dir)); err != nil {
			return fmt.Errorf("make the directory of the next authority: %w", err)
		}
		// The name tells its certificates from those of the old one in messages, and
		// to who is asked for one of either.
		next, err := openRoot(dir, a.cluster, "authority of "+a.cluster+now.UTC().Format(" 20060102T150405Z"), now)
		if err != nil {
			return err
		}
		r := record{Stage: Spreading, Started: now.UTC(), Replaced: a.record.Replaced}
		// Others may trust more than is used, which the next start puts right; never less.
		if err := WriteFile(a.CertFile(), bundle(a.old, next), 0o644); err != nil {
			return fmt.Errorf("say who is trusted: %w", err)
		}
		if err := a.writeRecord(r); err != nil {
			return errors.Join(err, a.writeTrusted())
		}
		a.next = next
		return nil
	})
}

// Replace lets the next authority sign, the gateway's own certificate too.
func (a *Authority) Replace() error {
	return a.change(Spreading, func() error {
		r := a.record
		r.Stage = Replacing
		return a.writeRecord(r)
	})
}

// Finish makes the next authority the only one, and deletes the key of the old one.
// From the next handshake on nothing that the old one signed is taken.
func (a *Authority) Finish() error {
	return a.change(Replacing, func() error {
		if a.record.Stage == Replacing { // an earlier try may have moved its files
			// The old one is deleted only for one that can be read and is valid.
			next, err := a.openNext(time.Now())
			if err == nil && !next.cert.Equal(a.next.cert) {
				err = fmt.Errorf("%s is not the one that signs: %w", filepath.Join(next.dir, CAFile), ErrCertificate)
			}
			if err != nil {
				return fmt.Errorf("the next authority can not take over: %w", err)
			}
		}
		if err := a.writeFinishing(a.old); err != nil {
			return err
		}
		// What follows is done by the next try or start if it fails here.
		if err := a.deleteOld(); err != nil {
			return err
		}
		a.old, a.next = a.next, nil
		return nil
	})
}

// writeFinishing writes down that old is to be deleted.
func (a *Authority) writeFinishing(old *root) error {
	r := a.record
	sum := Fingerprint(old.cert)
	r.Stage, r.Replaced = finishing, hex.EncodeToString(sum[:])
	// What is deleted does not come back with an earlier record.
	return errors.Join(a.writeRecord(r), file.SyncDir(a.dir))
}

// deleteOld puts the next authority in the place of the old one. Each step may have
// been done by an earlier try; the record is the last.
func (a *Authority) deleteOld() error {
	dir := filepath.Join(a.dir, nextDir)
	names := []string{caKeyFile}
	for _, role := range issuerRoles() {
		names = append(names, string(role)+".pem")
	}
	for _, name := range names {
		err := os.Rename(filepath.Join(dir, name), filepath.Join(a.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("replace the authority: %w", err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err == nil {
		err = WriteFile(a.CertFile(), text, 0o644)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the authority: %w", err)
	}
	if err := errors.Join(os.RemoveAll(dir), file.SyncDir(a.dir)); err != nil {
		return fmt.Errorf("replace the authority: %w", err)
	}
	r := a.record
	r.Stage = Single
	return a.writeRecord(r)
}

// change does one step from a stage, under the lock of the directory.
func (a *Authority) change(from Stage, step func() error) error {
	unlock, err := lock(filepath.Join(a.dir, lockFile))
	if err != nil {
		return err
	}
	defer unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stage != from && (from != Replacing || a.stage != finishing) {
		return fmt.Errorf("the replacement of the authority is at %q, not at %q: %w", a.stage, from, ErrStage)
	}
	err = step()
	a.stage = a.record.Stage
	close(a.changed)
	a.changed = make(chan struct{})
	return err
}

// Stage returns how far the replacement of the authority is, and since when it runs.
func (a *Authority) Stage() (Stage, time.Time) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.stage, a.record.Started
}

// Changed returns a channel that is closed at the next change of what is trusted or
// signs.
func (a *Authority) Changed() <-chan struct{} {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.changed
}

// Roots returns what is trusted now, the one that goes first.
func (a *Authority) Roots() []Root {
	signing := a.signing()
	var out []Root
	for _, r := range a.roots() {
		out = append(out, Root{Fingerprint: Fingerprint(r.cert), Begins: r.cert.NotBefore, Ends: r.cert.NotAfter, Signs: r == signing})
	}
	return out
}

// Replaced returns the fingerprint of the authority that this one has replaced, in
// hex digits; "" for none.
func (a *Authority) Replaced() string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.record.Replaced
}

// Bundle returns the certificates that are trusted now, PEM.
func (a *Authority) Bundle() []byte { return bundle(a.roots()...) }

// RootOf returns the fingerprint of the authority whose key top has: top is the last
// of a verified chain, which may be a copy that is sent to nobody.
func (a *Authority) RootOf(top *x509.Certificate) (sum [sha256.Size]byte, ok bool) {
	for _, r := range a.roots() {
		if r.key.PublicKey.Equal(top.PublicKey) {
			return Fingerprint(r.cert), true
		}
	}
	return sum, false
}

// SignFor is Sign for a holder who trusts the authorities with these fingerprints,
// and would refuse a certificate of another one.
func (a *Authority) SignFor(trusted [][sha256.Size]byte, request Request, csrPEM []byte) (chainPEM []byte, err error) {
	by := a.signing()
	if !slices.Contains(trusted, Fingerprint(by.cert)) {
		by = a.roots()[0]
	}
	return by.signRequest(request, csrPEM)
}

// Smooth says that who trusts the old authority alone takes the gateway's certificate
// while it is replaced: an old one that allows none but issuers of nothing below it
// prevents that.
func (a *Authority) Smooth() bool { return a.roots()[0].cert.MaxPathLen != 0 }

// roots are those that are trusted now.
func (a *Authority) roots() []*root {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.next == nil {
		return []*root{a.old}
	}
	return []*root{a.old, a.next}
}

func (a *Authority) signing() *root {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.next != nil && a.stage != Spreading {
		return a.next
	}
	return a.old
}

// issueServer makes the gateway's certificate. While the authority is replaced there
// stands behind it, for those that trust the old one alone, the new one's
// certificate signed by the old one's key.
func (a *Authority) issueServer(by *root, r Request) (*tls.Certificate, error) {
	cert, err := by.issue(r)
	old := a.roots()[0]
	if err != nil || by == old || old.cert.MaxPathLen == 0 {
		return cert, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	ends := by.cert.NotAfter
	if ends.After(old.cert.NotAfter) {
		ends = old.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial, RawSubject: by.cert.RawSubject, SubjectKeyId: by.cert.SubjectKeyId, URIs: by.cert.URIs,
		NotBefore: by.cert.NotBefore, NotAfter: ends,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		// No client's certificate is verified by way of it.
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cross, err := (&signer{cert: old.cert, key: old.key}).sign(template, by.key.Public())
	if err != nil {
		return nil, err
	}
	cert.Certificate = append(cert.Certificate, cross.Raw)
	return cert, nil
}

// Certificates returns the certificates in a PEM text; what is none is passed over.
func Certificates(text []byte) (out []*x509.Certificate) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == pemCertificate {
			out = append(out, cert)
		}
	}
	return out
}

// SignerOf returns the certificate that a PEM chain, which may be anybody's, begins
// with, and the fingerprint of the authority that it is of; false when it is of none
// that is trusted now.
func (a *Authority) SignerOf(chainPEM []byte) (leaf *x509.Certificate, signer [sha256.Size]byte, ok bool) {
	if len(chainPEM) > maxRequest {
		return nil, signer, false
	}
	chain, roots := Certificates(chainPEM), a.roots()
	all := make([]*x509.Certificate, 0, len(roots))
	for _, r := range roots {
		all = append(all, r.cert)
	}
	by := signerOf(chainPEM, all)
	if by == nil {
		return nil, signer, false
	}
	return chain[0], Fingerprint(by), true
}
