package gateway

import (
	"log/slog"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// farewell is how long a connection stays on which a call was refused since its
// certificate was taken back: for the caller to hear why. It has to connect anew
// to come with another certificate.
const farewell = 5 * time.Second

// Exclusions are the subjects whose certificates were taken back. They are kept in
// memory only. Safe for concurrent use.
type Exclusions struct {
	log   *slog.Logger
	roots Roots

	mu     sync.Mutex
	before map[pki.Subject]time.Time
	open   map[*connection]struct{}
}

// NewExclusions returns what excludes nobody.
func NewExclusions(log *slog.Logger) *Exclusions {
	return &Exclusions{log: log, before: map[pki.Subject]time.Time{}, open: map[*connection]struct{}{}}
}

// since returns from when on a certificate must be valid to be taken, if c's is
// valid from before.
func (e *Exclusions) since(c *connection) (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, ok := e.before[c.subject]
	return before, ok && c.from.Before(before)
}

// enter keeps a connection, to be cut when it must be; leave, called once, ends that.
// It is to be refused when ok is false.
func (e *Exclusions) enter(c *connection) (leave func(), ok bool) {
	e.mu.Lock()
	e.open[c] = struct{}{}
	e.mu.Unlock()
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.open, c)
	}, e.look(c)
}

// note takes certificates back and returns the connections that they opened.
func (e *Exclusions) note(subject pki.Subject, before time.Time) []*connection {
	e.mu.Lock()
	defer e.mu.Unlock()
	if before.After(e.before[subject]) {
		e.before[subject] = before
	}
	var out []*connection
	for c := range e.open {
		if c.subject == subject && c.from.Before(before) {
			out = append(out, c)
		}
	}
	return out
}

// Exclude takes back all certificates of subject that are valid from before a
// time: their connections are cut with all that is open on them, and every call
// is refused from now on. A time that is earlier than one that was given changes
// nothing.
func (e *Exclusions) Exclude(subject pki.Subject, before time.Time) {
	cut := e.note(subject, before)
	for _, c := range cut {
		c.cut()
	}
	if len(cut) > 0 {
		e.log.Info("connections of an excluded certificate are cut", "subject", subject.String(), "connections", len(cut))
	}
}

// Readmit makes a time the one since when certificates of subject must be valid, though a
// later one was given: who gave that had a clock that was ahead.
func (e *Exclusions) Readmit(subject pki.Subject, before time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.before[subject]; ok {
		e.before[subject] = before
	}
}
