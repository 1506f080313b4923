// Package join makes clusters members of one mesh, and ends that.
//
// One cluster makes an invitation, another one takes it, and in one exchange
// each signs a certificate for a key that the other made and keeps. No private
// key and no authority's key leaves its cluster. What a certificate says comes
// from the invitation and from who signs, never from who asks.
//
// Guarantees: an invitation is good for one cluster and one key; what broke off
// is finished by doing it again; a cluster that is put out is out at once, at
// every replica, over restarts and over the loss of etcd, until it joins anew.
package join

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

// Config is what New needs. All fields are required that do not say else.
type Config struct {
	Cluster cluster.Config
	Version string
	// Dir is where joined peers are kept, for a start without etcd's; pkg/peer
	// reads their peer files from there.
	Dir string
	// Resources is where peers are declared by resources, "" where there are none.
	Resources string
	Authority *pki.Authority
	// PeerTTL is how long the certificate is valid that a cluster gets when it joins.
	PeerTTL time.Duration
	Etcd    *kvstore.Client
	// Addresses returns host:port by which others reach the gateway.
	Addresses func() []string
	// Ranges returns those of our pods and of our nodes' mesh addresses; the list
	// is the caller's to change.
	Ranges func() []netip.Prefix
	// Claims are what this cluster is to be held to by others, and Reserved where no
	// other cluster may have pods. Both may be empty.
	Claims   []trust.Claim
	Reserved []netip.Prefix
	// Peers returns the sessions with other clusters.
	Peers func() []peer.Status
	// Beliefs returns what is believed of them, by name.
	Beliefs func() map[string]peer.Belief
	// Exclude makes the gateway refuse what a peer shows that is valid from before
	// a time, and cut its connections.
	Exclude func(subject pki.Subject, before time.Time)
	// Readmit makes an earlier time than before the one of Exclude.
	Readmit func(subject pki.Subject, before time.Time)
	// Proven is told that the caller has shown the secret of an invitation: the gateway
	// cuts it for no stranger.
	Proven func(context.Context)

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Manager keeps what joined. Its methods are safe for concurrent use.
type Manager struct {
	cfg         Config
	book        *book
	invitations invitations
	metrics     *metrics
	log         *slog.Logger
}

// New returns a Manager that does nothing until Run. It takes in what an earlier
// run left on disk, so that who is out is so before anything is served.
func New(cfg Config) (*Manager, error) {
	_, _, err := stranger.Fingerprint(cfg.Authority.CertPEM())
	if err != nil {
		return nil, fmt.Errorf("own authority: %w", err)
	}
	m := &Manager{cfg: cfg, invitations: invitations{etcd: cfg.Etcd}, log: cfg.Logger}
	m.book = newBook(cfg.Etcd, cfg.Dir, cfg.Logger,
		func(name string, before time.Time) { cfg.Exclude(m.peerSubject(name), before) },
		func(name string, before time.Time) { cfg.Readmit(m.peerSubject(name), before) })
	m.metrics = newMetrics(cfg.Registerer, m.book)
	return m, m.book.load()
}

// Register adds the services to a gRPC server: one for those that join, one for
// the command line.
func (m *Manager) Register(r grpc.ServiceRegistrar) {
	joinpb.RegisterJoinServer(r, newInviter(m))
	joinpb.RegisterMembershipServer(r, &membership{Manager: m})
}

// Run follows what all replicas know until ctx ends, and returns nil then.
func (m *Manager) Run(ctx context.Context) error { return m.book.run(ctx) }

// Renewed has the pair by which a peer is read, and what is trusted of it, written to
// its record, for all replicas. It does not wait; what is no joined peer is passed over.
func (m *Manager) Renewed(name string) { m.book.renewed(name) }

// Reached has the addresses, host:port, by which a joined peer says that it is reached
// now written to its record, for all replicas. It does not wait; what is no joined peer
// is passed over.
func (m *Manager) Reached(name string, addresses []string) {
	m.book.reached(name, endpoints(addresses))
}

// Loaded is closed when what all replicas know was read once.
func (m *Manager) Loaded() <-chan struct{} { return m.book.loaded }

// fingerprint is that of the authority that signs now; it may be replaced.
func (m *Manager) fingerprint() []byte {
	sum, _, _ := stranger.Fingerprint(m.cfg.Authority.CertPEM()) // New has seen that it can be read
	return sum[:]
}

// peerSubject is what the certificate of another cluster says here.
func (m *Manager) peerSubject(name string) pki.Subject {
	return pki.Subject{Cluster: m.cfg.Cluster.Name, Role: pki.RolePeer, Name: name}
}

// facts are what this cluster says of itself.
func (m *Manager) facts() Facts {
	return Facts{
		Name: m.cfg.Cluster.Name, ID: m.cfg.Cluster.ID, Size: m.cfg.Cluster.Size, Version: m.cfg.Version,
		Time: time.Now(), Ranges: tidy(m.cfg.Ranges()), Addresses: m.cfg.Addresses(), Claims: m.cfg.Claims,
	}
}

// unfit returns what speaks against another cluster, as far as this one can see.
func (m *Manager) unfit(theirs Facts) (out []problem) {
	for _, text := range Compare(m.facts(), theirs) {
		out = append(out, problem{text: text})
	}
	return append(out, m.taken(theirs, m.book.all())...)
}

// peer returns the session with a cluster.
func (m *Manager) peer(name string) (peer.Status, bool) {
	for _, p := range m.cfg.Peers() {
		if p.Name == name {
			return p, true
		}
	}
	return peer.Status{}, false
}

// sign gives another cluster a certificate to read this one with. It is valid
// from after the cluster was put out, if it was; that may be a moment ahead, which
// is waited for. out is that time, read before it was asked whether the cluster may
// have a certificate: if it is put out since, the certificate is worth nothing.
func (m *Manager) sign(ctx context.Context, name string, out time.Time, request []byte) ([]byte, error) {
	return m.signFor(ctx, name, out, m.cfg.PeerTTL, request)
}

// signFor is sign for another time than joined clusters' certificates have.
func (m *Manager) signFor(ctx context.Context, name string, out time.Time, ttl time.Duration, request []byte) ([]byte, error) {
	wait := time.Until(out)
	if wait > maxAhead { // nobody could use it
		return nil, fmt.Errorf("%s was put out at %s, which is %s ahead of the clock of %s: put the clocks of its replicas right; it can join after that time",
			name, out.UTC().Format(time.RFC3339), wait.Round(time.Second), m.cfg.Cluster.Name)
	}
	retry.Sleep(ctx, wait)
	return m.cfg.Authority.Sign(pki.Request{
		Role: pki.RolePeer, Name: name, TTL: ttl, NotBefore: out,
	}, request)
}

// checkChain refuses a certificate that another cluster signed for us and that is
// not what we need to read it with.
func (m *Manager) checkChain(signer string, authority, chain, key []byte) (until time.Time, err error) {
	until, err = pki.CheckClient(authority, chain, key, pki.Subject{Cluster: signer, Role: pki.RolePeer, Name: m.cfg.Cluster.Name})
	if err != nil {
		return until, fmt.Errorf("the certificate that %s signed: %w", signer, err)
	}
	return until, nil
}
