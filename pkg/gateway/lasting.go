package gateway

import (
	"context"
	"crypto/x509"
	"time"
)

// CertificateOf returns the certificate of who makes a call, and false when there
// is none. It must not be changed.
func CertificateOf(ctx context.Context) (*x509.Certificate, bool) {
	c, ok := connectionOf(ctx)
	if !ok || !c.known {
		return nil, false
	}
	return c.certificate, true
}

// TopOf returns the authority's certificate that the one of who makes a call was
// verified by, and false when there is none.
func TopOf(ctx context.Context) (*x509.Certificate, bool) {
	c, ok := connectionOf(ctx)
	if !ok || !c.known {
		return nil, false
	}
	chain := c.State.VerifiedChains[0]
	return chain[len(chain)-1], true
}

// Extend lets the connection that a call came by, and all streams on it, go on
// until the end of another certificate that the caller was given by that call: a
// renewal ends no watch. It never shortens.
func Extend(ctx context.Context, until time.Time) {
	if c, ok := connectionOf(ctx); ok && c.known {
		c.extend(until)
	}
}

func (c *connection) extend(until time.Time) {
	for {
		old := c.renewed.Load()
		if old != nil && !until.After(*old) || c.renewed.CompareAndSwap(old, &until) {
			return
		}
	}
}

// end is that of the newest certificate.
func (c *connection) end() time.Time {
	if renewed := c.renewed.Load(); renewed != nil && renewed.After(c.until) {
		return *renewed
	}
	return c.until
}

func (c *connection) left() time.Duration { return time.Until(c.end()) }

// lasting returns a context that ends with the newest certificate, by errEnded.
func (c *connection) lasting(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	var look func()
	look = func() {
		left := c.left()
		if left <= 0 {
			cancel(errEnded)
			return
		}
		timer := time.AfterFunc(left, look)
		context.AfterFunc(ctx, func() { timer.Stop() })
	}
	look()
	return ctx, func() { cancel(nil) }
}
