// Package rotation replaces a cluster's authority while its certificates are in
// use.
//
// Old and new are both trusted until all holders of certificates have the new one:
// peers and agents are told over the connection that they have, which they verified
// against what they trust, and renew their certificates at once. Then the old one's
// key is deleted and nothing that it signed is taken.
//
// Guarantees: nobody who is known to hold a certificate is cut off unless a person
// says so and is told who it is; what is broken off goes on at the next start; no
// key leaves the authority's directory.
package rotation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

const (
	// lookEvery is how often it is looked whether the next step can be done.
	lookEvery = time.Second
	// settle is how long a replacement lasts at least that ends by itself: for who is
	// away and was never seen by a version that keeps that.
	settle = 10 * time.Minute
	// farewell is how long connections of who is cut off stay: the answer to who
	// asked for it may go by one.
	farewell = 5 * time.Second
)

// Connections are those of the gateway.
type Connections interface {
	// Behind returns whose open connections were not given a certificate of root.
	Behind(root [sha256.Size]byte) []pki.Subject
	// CutBehind closes those that were given one of none of roots.
	CutBehind(roots ...[sha256.Size]byte)
	// Out says that a certificate that is valid from a time on was taken back.
	Out(subject pki.Subject, begins time.Time) bool
}

// Issued is a pair that was made for a peer.
type Issued struct {
	Name        string
	Since, Ends time.Time
	// Root is the fingerprint of its authority, zero where that was not kept.
	Root [sha256.Size]byte
}

// Config is what New needs. All fields are required but Issued and Shared.
type Config struct {
	Authority *pki.Authority
	// File is where it is kept who has certificates.
	File        string
	Connections Connections
	// Certificate returns that of who makes a call. Moved says that the connection of
	// a call is of somebody who has a certificate of root by now.
	Certificate func(context.Context) (*x509.Certificate, bool)
	Moved       func(ctx context.Context, root [sha256.Size]byte)
	// Listening returns what is closed when the gateway listens. It is called by Run.
	Listening func() <-chan struct{}
	// Issued returns the pairs that were made here for peers that can not ask for one, as
	// those that run Cilium, and that have not ended: nobody may have shown them yet. Nil
	// for none.
	Issued func() []Issued
	// Shared says that other replicas may sign with a copy of the authority.
	Shared bool
	// Replaced is told of each end, to make it known to the replicas, until it returns
	// no error; never twice at a time.
	Replaced   func(context.Context) error
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Manager replaces the authority. Its methods are safe for concurrent use.
type Manager struct {
	cfg    Config
	ledger *ledger
	log    *slog.Logger

	mu sync.Mutex
	// listens is since when anybody could come, zero before that. What is reckoned from
	// it goes by the clock that nobody sets.
	listens time.Time

	telling sync.Mutex
	// untold says that Replaced is still to be told of the last end.
	untold bool
}

// New returns a Manager that does nothing until Run.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, log: cfg.Logger}
	stage, _ := cfg.Authority.Stage()
	m.ledger = openLedger(cfg.File, stage != pki.Single, cfg.Logger)
	factory := promauto.With(cfg.Registerer)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_authority_expiry_timestamp_seconds",
		Help: "When the certificate of the cluster's authority ends that signs, in seconds since 1970.",
	}, func() float64 { return float64(m.Ends().Unix()) })
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_authority_rotation_active",
		Help: "1 while the cluster's authority is being replaced.",
	}, func() float64 {
		if stage, _ := cfg.Authority.Stage(); stage != pki.Single {
			return 1
		}
		return 0
	})
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_authority_rotation_behind_holders",
		Help: "Peers and agents that the end of the old authority would cut off at this moment.",
	}, func() float64 { return float64(len(m.behind())) })
	return m
}

// Register adds the services to a gRPC server: one for holders of certificates, one
// for the command line.
func (m *Manager) Register(r grpc.ServiceRegistrar) {
	rotationpb.RegisterHolderServer(r, &holders{Manager: m})
	rotationpb.RegisterRotationServer(r, &operator{Manager: m})
}

// Ends returns when the authority that signs ends.
func (m *Manager) Ends() (ends time.Time) {
	for _, r := range m.cfg.Authority.Roots() {
		if r.Signs {
			ends = r.Ends
		}
	}
	return ends
}

// Seen takes in that a certificate was shown, with the fingerprint of its authority.
func (m *Manager) Seen(s pki.Subject, cert *x509.Certificate, root [sha256.Size]byte) {
	if s.Role == pki.RolePeer || s.Role == pki.RoleAgent {
		m.ledger.put(cert, holdingOf(s, cert, root, time.Now()))
	}
}

// newest is the authority that remains.
func (m *Manager) newest() sum {
	roots := m.cfg.Authority.Roots()
	return roots[len(roots)-1].Fingerprint
}

// Run goes on with what was begun until ctx ends, and keeps who has certificates.
func (m *Manager) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	listening := m.cfg.Listening()
	for {
		m.ledger.forget(m.ended)
		if err := m.ledger.save(); err != nil {
			m.log.Error("who has certificates is not written down, will retry", "error", err)
		}
		if err := m.advance(ctx); err != nil {
			m.log.Error("authority is not replaced further, will retry", "error", err)
		}
		select {
		case <-ctx.Done():
			return m.ledger.save()
		case <-listening:
			listening = nil
			m.mu.Lock()
			m.listens = time.Now()
			m.mu.Unlock()
		case <-ticker.C:
		case <-m.cfg.Authority.Changed():
		}
	}
}

// advance does the next step that hurts nobody. There is none before the replicas
// know of the last end.
func (m *Manager) advance(ctx context.Context) error {
	if err := m.tell(ctx); err != nil {
		return err
	}
	stage, _ := m.cfg.Authority.Stage()
	switch {
	case stage == pki.Single:
		return nil
	case stage == pki.Spreading:
		if !m.cfg.Authority.Smooth() && len(m.lacking())+len(m.unshown()) > 0 {
			return nil
		}
		return m.replace()
	case !m.settled() || m.byHand() != "" || len(m.behind()) > 0:
		return nil
	}
	return m.finish(ctx)
}

// settled says that everybody could come for long enough since the start.
func (m *Manager) settled() bool {
	_, started := m.cfg.Authority.Stage()
	open, ok := m.open()
	return ok && open >= settle && time.Since(started) >= settle
}

// open returns for how long anybody could come, false before that.
func (m *Manager) open() (time.Duration, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listens.IsZero() {
		return 0, false
	}
	return time.Since(m.listens), true
}

// ended says that the time of a certificate is over, also by the clock as it was when
// the gateway began to listen: one that jumps ahead lets nobody be forgotten.
func (m *Manager) ended(h holding) bool {
	open, ok := m.open()
	m.mu.Lock()
	defer m.mu.Unlock()
	return ok && open >= settle && time.Now().After(h.Ends) && m.listens.Add(open).After(h.Ends)
}

// byHand says why the old authority is not ended but by a person, "" when it is.
func (m *Manager) byHand() string {
	switch {
	case m.cfg.Shared:
		return "API servers that share an etcd know each for itself who has certificates"
	case m.ledger.lost():
		return "who has certificates is not known from before a start: " + m.cfg.File + " was missing or could not be read"
	}
	return ""
}

func (m *Manager) replace() error {
	if err := m.cfg.Authority.Replace(); err != nil {
		return err
	}
	m.log.Info("the new authority signs from now on, the old one is still trusted")
	return nil
}

// finish ends the old authority, whoever is behind.
func (m *Manager) finish(ctx context.Context) error {
	if err := m.cfg.Authority.Finish(); err != nil {
		return err
	}
	newest := m.newest()
	m.ledger.forget(func(h holding) bool { return h.Root != newest })
	if err := m.ledger.found(); err != nil {
		m.log.Error("the next replacement of the authority will have to be ended by hand, too", "error", err)
	}
	m.log.Info("the old authority is gone, what it signed is refused")
	time.AfterFunc(farewell, m.cutOff)
	m.telling.Lock()
	m.untold = true
	m.telling.Unlock()
	return m.tell(ctx)
}

// tell makes an end known that is not yet; Run tries again what fails.
func (m *Manager) tell(ctx context.Context) error {
	m.telling.Lock()
	defer m.telling.Unlock()
	if !m.untold {
		return nil
	}
	if err := m.cfg.Replaced(ctx); err != nil {
		return fmt.Errorf("make known that the authority was replaced: %w", err)
	}
	m.untold = false
	return nil
}

// cutOff closes the connections of what nothing that is trusted signed: another
// replacement may have begun since the end of the last one.
func (m *Manager) cutOff() {
	roots := m.cfg.Authority.Roots()
	trusted := make([][sha256.Size]byte, 0, len(roots))
	for _, r := range roots {
		trusted = append(trusted, r.Fingerprint)
	}
	m.cfg.Connections.CutBehind(trusted...)
}

// Behind is a holder whom the end of the old authority would cut off.
type Behind struct {
	Role   pki.Role
	Name   string
	Reason string
	// Seen is zero for one of whom only the connection is known.
	Seen, Ends time.Time
	// follows says that it trusts the new authority.
	follows bool
}

// behind returns them, each once, whatever number of its certificates are of the old
// authority.
func (m *Manager) behind() []Behind {
	if stage, _ := m.cfg.Authority.Stage(); stage == pki.Single {
		return nil
	}
	newest := m.newest()
	var out []Behind
	for _, h := range m.ledger.list() {
		if h.Root != newest && !m.out(h) {
			out = append(out, Behind{Role: h.Role, Name: h.Name, Reason: why(h, newest), Seen: h.Seen, Ends: h.Ends, follows: slices.Contains(h.Trusts, newest)})
		}
	}
	for _, s := range m.cfg.Connections.Behind(newest) {
		known := slices.ContainsFunc(out, func(b Behind) bool { return b.Role == s.Role && b.Name == s.Name })
		if !known && (s.Role == pki.RolePeer || s.Role == pki.RoleAgent) {
			out = append(out, Behind{Role: s.Role, Name: s.Name, Reason: "a connection of it shows a certificate of the old authority"})
		}
	}
	out = append(out, m.unshown()...)
	slices.SortFunc(out, func(a, b Behind) int {
		return cmp.Or(strings.Compare(string(a.Role), string(b.Role)), strings.Compare(a.Name, b.Name), b.Seen.Compare(a.Seen))
	})
	return byHolder(out)
}

// byHolder makes one of those that follow each other and are of one holder. What is said
// of it is about one that does not follow, if there is one.
func byHolder(sorted []Behind) (out []Behind) {
	for begin, end := 0, 0; begin < len(sorted); begin = end {
		for end = begin; end < len(sorted) && sorted[end].Role == sorted[begin].Role && sorted[end].Name == sorted[begin].Name; end++ {
		}
		of := sorted[begin:end]
		one := of[max(0, slices.IndexFunc(of, func(b Behind) bool { return !b.follows }))]
		for _, b := range of {
			if one.Seen.Before(b.Seen) {
				one.Seen = b.Seen
			}
			if one.Ends.Before(b.Ends) {
				one.Ends = b.Ends
			}
		}
		if len(of) > 1 {
			one.Reason += fmt.Sprintf(" (%d certificates)", len(of))
		}
		out = append(out, one)
	}
	return out
}

// unshown returns the peers that have a pair of the old authority that was made for them
// here and that nobody has shown: they may begin with it at any time. Whoever has shown
// one is known by that.
func (m *Manager) unshown() (out []Behind) {
	if m.cfg.Issued == nil {
		return nil
	}
	newest, shown := m.newest(), map[string]bool{}
	for _, h := range m.ledger.list() {
		// One that was taken back is no word on another pair that was made since.
		shown[h.Name] = shown[h.Name] || h.Role == pki.RolePeer && !m.out(h)
	}
	stage, started := m.cfg.Authority.Stage()
	roots := m.cfg.Authority.Roots()
	remedy := "give it another one: causeway peers renew %s, or take it back: causeway disconnect %[1]s"
	if stage == pki.Spreading { // another one would be of the old authority
		remedy = "take it back: causeway disconnect %s, or let the new authority sign before it can: causeway ca rotate --finish --force, and give it another one then: causeway peers renew %[1]s"
	}
	for _, i := range m.cfg.Issued() {
		// One of an authority that was replaced before is of no use already.
		old := slices.ContainsFunc(roots, func(r pki.Root) bool { return r.Fingerprint == i.Root && i.Root != newest })
		if i.Root == [sha256.Size]byte{} {
			old = i.Since.Before(started)
		}
		if old && !shown[i.Name] {
			out = append(out, Behind{
				Role: pki.RolePeer, Name: i.Name, Ends: i.Ends,
				Reason: "was issued a pair that it has not shown yet; " + fmt.Sprintf(remedy, i.Name),
			})
		}
	}
	return out
}

// lacking returns those who do not trust the new authority, as far as is known.
func (m *Manager) lacking() []holding {
	newest := m.newest()
	return slices.DeleteFunc(m.ledger.list(), func(h holding) bool {
		return h.Root == newest || slices.Contains(h.Trusts, newest) || m.out(h)
	})
}

func (m *Manager) out(h holding) bool {
	return m.cfg.Connections.Out(pki.Subject{Cluster: m.cfg.Authority.Cluster(), Role: h.Role, Name: h.Name}, h.Begins)
}

func why(h holding, newest sum) string {
	switch {
	case h.Trusts == nil:
		return "does not ask for the new authority: of another make or an older version; give it new files by hand"
	case slices.Contains(h.Trusts, newest):
		return "trusts the new authority, its certificate is not renewed yet"
	}
	return fmt.Sprintf("does not have the new authority yet, seen last at %s", h.Seen.Format(time.RFC3339))
}
