package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// serverTTL is short since the server's pair lives in memory and costs nothing
// to renew.
const serverTTL = 30 * 24 * time.Hour

// ServerConfig returns the TLS configuration of the cluster's gateway: TLS 1.3,
// clients with no certificate or with one of this authority. The server's own
// pair is made here, kept in memory only, and renewed at the first handshake
// after two thirds of its time, or when the clock was put back to before it, so
// it never needs a restart; nor does it when the authority is replaced. dnsNames and ips
// are what the gateway is dialled by besides its mesh names and localhost.
func (a *Authority) ServerConfig(dnsNames []string, ips []netip.Addr) (*tls.Config, error) {
	p := &serverPair{
		authority: a,
		request:   Request{Role: RoleServer, TTL: serverTTL, DNSNames: dnsNames, IPs: ips},
	}
	if _, err := p.get(nil); err != nil {
		return nil, err
	}
	clients := &clientAuthorities{authority: a}
	if _, err := clients.config(nil); err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: p.get,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		// A resumed session would not see a client's new certificate.
		SessionTicketsDisabled: true,
	}
	clients.base = config.Clone()
	config.GetConfigForClient = clients.config
	return config, nil
}

// clientAuthorities gives each handshake who may have signed clients' certificates.
type clientAuthorities struct {
	authority *Authority
	base      *tls.Config

	mu    sync.Mutex
	known []*root
	pool  *x509.CertPool
}

func (c *clientAuthorities) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if roots := c.authority.roots(); !slices.Equal(roots, c.known) {
		pool := x509.NewCertPool()
		for _, r := range roots {
			if err := r.addTo(pool); err != nil {
				return nil, err
			}
		}
		c.known, c.pool = roots, pool
	}
	if c.base == nil {
		return nil, nil //nolint:nilnil // the first look, which only finds what is wrong
	}
	config := c.base.Clone()
	config.ClientCAs, config.NextProtos = c.pool, []string{"h2"}
	return config, nil
}

// serverPair is the gateway's certificate, renewed by itself.
type serverPair struct {
	authority *Authority
	request   Request

	mu      sync.Mutex
	current *tls.Certificate
	by      *root
}

// get returns a certificate with at least a third of its time left. A renewal
// that does not work is tried again at the next handshake; until its end the
// old certificate serves.
func (p *serverPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	by := p.authority.signing()
	if p.current != nil && p.by == by && now.Before(RenewAt(p.current.Leaf)) && !now.Before(p.current.Leaf.NotBefore) {
		return p.current, nil
	}
	renewed, err := p.authority.issueServer(by, p.request)
	if err != nil {
		if p.current != nil && now.Before(p.current.Leaf.NotAfter) {
			return p.current, nil
		}
		return nil, err
	}
	p.current, p.by = renewed, by
	return renewed, nil
}
