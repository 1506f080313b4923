package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Roots are told of the certificates that callers show, by the authority that they
// are of; the cluster has two while one replaces the other. Both must not block.
type Roots struct {
	// Of returns the fingerprint of an authority by the last certificate of a chain.
	Of func(top *x509.Certificate) ([sha256.Size]byte, bool)
	// Seen is told of each connection with a certificate.
	Seen func(s pki.Subject, cert *x509.Certificate, root [sha256.Size]byte)
}

// Watch makes r hear of all connections. It is called before the gateway runs.
func (e *Exclusions) Watch(r Roots) { e.roots = r }

// look takes in whose certificate a connection shows. It returns false for one whose
// authority is gone: a handshake is verified against what was trusted when it began,
// and may be held open for long.
func (e *Exclusions) look(c *connection) bool {
	if !c.known || e.roots.Of == nil {
		return true
	}
	chain := c.State.VerifiedChains[0]
	root, ok := e.roots.Of(chain[len(chain)-1])
	c.root.Store(&root)
	if ok {
		e.roots.Seen(c.subject, c.certificate, root)
	}
	return ok
}

// Moved says that who makes a call has a certificate of another authority by now: the
// connection that it came by goes on when that of the one that it shows is gone.
func Moved(ctx context.Context, root [sha256.Size]byte) {
	if c, ok := connectionOf(ctx); ok && c.known {
		c.root.Store(&root)
	}
}

// RootOf returns the authority of who makes a call: that of the certificate that its
// connection began with, or the one that Moved said. It is false when neither is known.
func RootOf(ctx context.Context) (root [sha256.Size]byte, ok bool) {
	c, ok := connectionOf(ctx)
	if !ok || !c.known || c.root.Load() == nil {
		return root, false
	}
	return *c.root.Load(), true
}

// behind returns the open connections of certificates of other authorities.
func (e *Exclusions) behind(roots ...[sha256.Size]byte) (out []*connection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.open {
		if of := c.root.Load(); c.known && of != nil && !slices.Contains(roots, *of) {
			out = append(out, c)
		}
	}
	return out
}

// Behind returns whose open connections are not known to have a certificate of root.
func (e *Exclusions) Behind(root [sha256.Size]byte) (out []pki.Subject) {
	for _, c := range e.behind(root) {
		out = append(out, c.subject)
	}
	return out
}

// CutBehind closes those that are not known to have one of any of roots.
func (e *Exclusions) CutBehind(roots ...[sha256.Size]byte) {
	cut := e.behind(roots...)
	for _, c := range cut {
		c.cut()
	}
	if len(cut) > 0 {
		e.log.Info("connections with certificates of another authority are cut", "connections", len(cut))
	}
}

// Out says that a certificate of subject that begins at a time was taken back.
func (e *Exclusions) Out(subject pki.Subject, begins time.Time) bool {
	_, out := e.since(&connection{subject: subject, from: begins})
	return out
}
