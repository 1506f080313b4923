package rotation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// seenPrecision is how exactly it is kept when a holder was here: each write of the
// file is one of all holders.
const seenPrecision = 10 * time.Minute

// maxHoldings is how many certificates of one holder are known: its replicas have one
// each.
const maxHoldings = 32

// sum is a SHA-256 of a certificate, as the file has it.
type sum [sha256.Size]byte

// MarshalText implements encoding.TextMarshaler.
func (p sum) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(p[:])), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *sum) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(p[:], text); err != nil || n != len(p) {
		return fmt.Errorf("%q is no SHA-256", text)
	}
	return nil
}

// holding is a certificate that somebody has shown and that has not ended.
type holding struct {
	Role pki.Role `json:"role"`
	Name string   `json:"name"`
	// Begins and Ends are its time, Root whose it is.
	Begins time.Time `json:"begins"`
	Ends   time.Time `json:"ends"`
	Root   sum       `json:"root"`
	// Trusts is what the holder said that it trusts, nil when it never said so.
	Trusts []sum     `json:"trusts,omitempty"`
	Seen   time.Time `json:"seen"`
}

// ledger is what is known of certificates that are in use, over restarts: who is
// away while the authority is replaced has to be known. By the SHA-256 of the
// certificate. Safe for concurrent use.
type ledger struct {
	path string

	mu    sync.Mutex
	all   map[sum]holding
	dirty bool
	gap   bool
}

// openLedger reads the file. While the authority is being replaced there must be one.
func openLedger(path string, rotating bool, log *slog.Logger) *ledger {
	l := &ledger{path: path, all: map[sum]holding{}}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &l.all)
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && !rotating:
		l.dirty = true // so that one that is missing later was lost
	default:
		log.Error("who has certificates is not known from before, those that are here will be", "file", path, "error", err)
		l.all, l.dirty, l.gap = map[sum]holding{}, true, true
		if err := pki.WriteFile(l.mark(), nil, 0o600); err != nil {
			log.Error("the next start will not know that", "error", err)
		}
	}
	if _, err := os.Stat(l.mark()); err == nil {
		l.gap = true
	}
	return l
}

// mark is the file that says that holders from before are not known.
func (l *ledger) mark() string { return l.path + ".lost" }

// lost says that holders from before are not known.
func (l *ledger) lost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gap
}

// found says that all of those who count are known from now on: the others have
// certificates that nobody takes.
func (l *ledger) found() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gap = false
	if err := os.Remove(l.mark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func holdingOf(s pki.Subject, cert *x509.Certificate, root [sha256.Size]byte, now time.Time) holding {
	return holding{Role: s.Role, Name: s.Name, Begins: cert.NotBefore, Ends: cert.NotAfter, Root: root, Seen: now.UTC()}
}

// put takes in what is known of a certificate now. What its holder trusts stays
// known when h says nothing of it. What the certificate has replaced is forgotten.
func (l *ledger) put(cert *x509.Certificate, h holding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := sum(pki.Fingerprint(cert))
	old, known := l.all[key]
	for k, other := range l.all {
		if k != key && h.replaces(other) {
			delete(l.all, k)
			l.dirty = true
		}
	}
	if h.Trusts == nil {
		h.Trusts = old.Trusts
	}
	if known && slices.Equal(h.Trusts, old.Trusts) && h.Root == old.Root && h.Seen.Sub(old.Seen) < seenPrecision {
		return
	}
	l.all[key], l.dirty = h, true
	l.bound(h)
}

// bound forgets the certificate that the holder of h has not shown for longest, when it
// has shown too many: l.mu is held.
func (l *ledger) bound(h holding) {
	var oldest sum
	n := 0
	for k, other := range l.all {
		if other.Role != h.Role || other.Name != h.Name {
			continue
		}
		if n++; n == 1 || other.Seen.Before(l.all[oldest].Seen) {
			oldest = k
		}
	}
	if n > maxHoldings {
		delete(l.all, oldest)
	}
}

// drop forgets a certificate that its holder has put another one in the place of.
func (l *ledger) drop(cert *x509.Certificate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := sum(pki.Fingerprint(cert))
	if _, ok := l.all[key]; ok {
		delete(l.all, key)
		l.dirty = true
	}
}

// forget drops what fn says is of no use any more.
func (l *ledger) forget(fn func(holding) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, h := range l.all {
		if fn(h) {
			delete(l.all, key)
			l.dirty = true
		}
	}
}

// replaces says that who shows h does not show other any more. A node has one agent. A
// peer may have several replicas, which share one pair in the beginning and renew it
// each for itself: a certificate that follows another one begins with it. Those of them
// that are connected are known by that. Who never asks has new ones by hand.
func (h holding) replaces(other holding) bool {
	if h.Role != other.Role || h.Name != other.Name {
		return false
	}
	follows := h.Begins.Equal(other.Begins) && !other.Ends.After(h.Ends)
	byHand := h.Root != other.Root && other.Trusts == nil
	return h.Role == pki.RoleAgent || follows || byHand && h.Begins.After(other.Begins)
}

func (l *ledger) list() []holding {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]holding, 0, len(l.all))
	for _, h := range l.all {
		out = append(out, h)
	}
	return out
}

// holders returns how many have certificates.
func (l *ledger) holders() int {
	type holder struct {
		role pki.Role
		name string
	}
	all := map[holder]bool{}
	for _, h := range l.list() {
		all[holder{h.Role, h.Name}] = true
	}
	return len(all)
}

// save writes the file if there is anything new, one caller at a time. Handshakes do
// not wait for the disk.
func (l *ledger) save() error {
	l.mu.Lock()
	dirty, all := l.dirty, maps.Clone(l.all)
	l.dirty = false
	l.mu.Unlock()
	if !dirty {
		return nil
	}
	text, err := json.Marshal(all)
	if err != nil {
		err = fmt.Errorf("encode %q: %w", l.path, err)
	} else {
		err = pki.WriteFile(l.path, text, 0o600)
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.dirty = true
	}
	return err
}
