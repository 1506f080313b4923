package rotation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bed is a Manager, and the gateway's connections as it sees them.
type bed struct {
	*Manager

	t         *testing.T
	dir       string
	authority *pki.Authority
	replaced  int
	failures  int // so many times Replaced fails

	mu    sync.Mutex
	conns map[pki.Subject][sha256.Size]byte
	out   map[pki.Subject]bool
	cut   []pki.Subject

	listening chan struct{}
	issued    []Issued
}

func newBed(t *testing.T, dir string) *bed {
	t.Helper()
	authority, err := pki.OpenAuthority(dir, "east")
	must(t, err)
	b := &bed{t: t, dir: dir, authority: authority, conns: map[pki.Subject][sha256.Size]byte{}, out: map[pki.Subject]bool{}}
	b.Manager = b.manager(false)
	return b
}

func (b *bed) manager(shared bool) *Manager {
	return New(Config{
		Authority: b.authority, File: filepath.Join(b.dir, "holders.json"), Connections: b, Shared: shared,
		Certificate: func(ctx context.Context) (*x509.Certificate, bool) {
			cert, ok := ctx.Value(certKey{}).(*x509.Certificate)
			return cert, ok
		},
		Moved: func(ctx context.Context, root [sha256.Size]byte) {
			s, _ := pki.SubjectFromContext(ctx)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.conns[s] = root
		},
		Listening: func() <-chan struct{} {
			if b.listening != nil {
				return b.listening
			}
			open := make(chan struct{})
			close(open)
			return open
		},
		Replaced: func(context.Context) error {
			if b.failures > 0 {
				b.failures--
				return errors.New("etcd does not answer")
			}
			b.replaced++
			return nil
		},
		Issued: func() []Issued { return b.issued },
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
}

type certKey struct{}

// Behind implements Connections.
func (b *bed) Behind(root [sha256.Size]byte) (out []pki.Subject) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, of := range b.conns {
		if of != root {
			out = append(out, s)
		}
	}
	return out
}

// CutBehind implements Connections.
func (b *bed) CutBehind(roots ...[sha256.Size]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, of := range b.conns {
		if !slices.Contains(roots, of) {
			b.cut = append(b.cut, s)
		}
	}
}

// Out implements Connections.
func (b *bed) Out(s pki.Subject, _ time.Time) bool { return b.out[s] }

// holder is a peer or an agent.
type holder struct {
	b       *bed
	subject pki.Subject
	files   pki.ClientFiles
	shown   *x509.Certificate
}

func (b *bed) holder(role pki.Role, name string) *holder {
	b.t.Helper()
	dir := b.t.TempDir()
	h := &holder{b: b, subject: pki.Subject{Cluster: "east", Role: role, Name: name}, files: pki.ClientFiles{
		CAFile: filepath.Join(dir, "ca"), CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key"),
	}}
	pair, err := b.authority.Issue(pki.Request{Role: role, Name: name, TTL: time.Hour})
	must(b.t, err)
	must(b.t, pair.Save(h.files.CertFile, h.files.KeyFile))
	must(b.t, os.WriteFile(h.files.CAFile, b.authority.CertPEM(), 0o600))
	h.connect()
	return h
}

// connect shows the gateway the certificate that is in the files.
func (h *holder) connect() {
	h.b.t.Helper()
	cert, err := h.files.Certificate()
	must(h.b.t, err)
	_, root, err := h.files.Trusted()
	must(h.b.t, err)
	h.shown = cert
	h.b.mu.Lock()
	h.b.conns[h.subject] = root
	h.b.mu.Unlock()
	h.b.Seen(h.subject, cert, root)
}

// ask makes the call, and does what the answer says: whether that was anything.
func (h *holder) ask(ctx context.Context) bool {
	h.b.t.Helper()
	trusted, _, err := h.files.Trusted()
	must(h.b.t, err)
	chain, err := os.ReadFile(h.files.CertFile)
	must(h.b.t, err)
	r := &rotationpb.TrustRequest{Chain: chain}
	for _, p := range trusted {
		r.Trusted = append(r.Trusted, bytes.Clone(p[:]))
	}
	ctx = context.WithValue(pki.ContextWithSubject(ctx, h.subject), certKey{}, h.shown)
	answer, err := (&holders{Manager: h.b.Manager}).Trust(ctx, r)
	if err != nil {
		return false
	}
	changed, err := h.files.Trust("east", answer.Authorities)
	must(h.b.t, err)
	if !answer.Renew {
		return changed
	}
	trusted, _, err = h.files.Trusted()
	must(h.b.t, err)
	_, err = h.files.RenewEarly(time.Now(), func(csr []byte) ([]byte, error) {
		return h.b.authority.SignFor(trusted, pki.Request{Role: h.subject.Role, Name: h.subject.Name, TTL: time.Hour}, csr)
	})
	must(h.b.t, err)
	return true
}

// follow asks until there is nothing to do but wait.
func (h *holder) follow() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), hold/2)
		did := h.ask(ctx)
		cancel()
		if !did {
			return
		}
	}
}

// run runs the manager until the test's end.
func (b *bed) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		must(b.t, <-done)
	})
}

func (b *bed) start() *rotationpb.StatusResponse {
	b.t.Helper()
	s, err := (&operator{Manager: b.Manager}).Start(context.Background(), &rotationpb.StartRequest{})
	must(b.t, err)
	return s
}

func (b *bed) finish(force bool) (*rotationpb.FinishResponse, error) {
	return (&operator{Manager: b.Manager}).Finish(context.Background(), &rotationpb.FinishRequest{Force: force})
}

// The end of one becomes known to the replicas though it could not at first.
func TestEndIsToldAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir)
		b.failures = 3
		b.run()
		b.start()
		synctest.Wait()
		time.Sleep(2 * lookEvery)
		if _, err := b.finish(true); err == nil || !strings.Contains(err.Error(), "etcd does not answer") {
			t.Errorf("error %v", err)
		}
		time.Sleep(5 * lookEvery)
		synctest.Wait()
		if b.replaced != 1 || b.failures != 0 {
			t.Errorf("told %d times, %d left to fail", b.replaced, b.failures)
		}
	})
}

// All follow, and it ends by itself.
func TestAllFollow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir)
		agent, west := b.holder(pki.RoleAgent, "n1"), b.holder(pki.RolePeer, "west")
		b.run()
		if s := b.start(); len(s.Authorities) != 2 || s.Holders != 2 {
			t.Errorf("status %v", s)
		}
		synctest.Wait()
		if got := names(b.behind()); got != "agent n1, peer west" {
			t.Errorf("%s are behind", got)
		}
		agent.follow()
		if got := names(b.behind()); got != "peer west" {
			t.Errorf("%s are behind", got)
		}
		time.Sleep(2 * settle)
		if _, err := b.finish(false); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "peer west") {
			t.Errorf("error %v", err)
		}
		west.follow()
		time.Sleep(2 * lookEvery)
		if stage, _ := b.authority.Stage(); stage != pki.Single || b.replaced != 1 {
			t.Fatalf("it is in %q", stage)
		}
		for _, h := range []*holder{agent, west} {
			h.follow()
			if trusted, by, err := h.files.Trusted(); err != nil || len(trusted) != 1 || by != b.authority.Roots()[0].Fingerprint {
				t.Errorf("%s trusts %d, %v", h.subject, len(trusted), err)
			}
		}
		time.Sleep(2 * farewell)
		if len(b.cut) != 0 {
			t.Errorf("cut off: %v", b.cut)
		}
	})
}

// Who is away is known over a restart, with what to do, and is cut off by force alone.
func TestAway(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir)
		b.holder(pki.RolePeer, "cilium") // which never asks
		away := b.holder(pki.RoleAgent, "n1")
		away.follow()
		must(t, b.ledger.save())
		clear(b.conns)
		b.Manager = b.manager(false) // another process
		b.run()
		b.start()
		time.Sleep(2 * settle)
		s := (&operator{Manager: b.Manager}).status()
		if len(s.Behind) != 2 || !strings.Contains(s.Behind[0].Reason, "does not have the new authority yet") ||
			!strings.Contains(s.Behind[1].Reason, "by hand") || s.Behind[0].Ends == nil {
			t.Errorf("behind: %v", s.Behind)
		}
		answer, err := b.finish(true)
		must(t, err)
		if len(answer.Cut) != 2 || answer.Status.Stage != "" || answer.Status.Holders != 0 {
			t.Errorf("answer %v", answer)
		}
		if _, err := b.finish(true); status.Code(err) != codes.FailedPrecondition {
			t.Error(err)
		}
		time.Sleep(2 * farewell)
	})
}

// Who was put out, or whose certificate has ended, is waited for no more. New files
// given by hand are as good as having asked.
func TestNobodyToWaitFor(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir)
		out, byHand := b.holder(pki.RolePeer, "out"), b.holder(pki.RolePeer, "west")
		b.holder(pki.RoleAgent, "n1")
		b.run()
		b.start()
		synctest.Wait()
		b.out[out.subject] = true
		clear(b.conns)
		if got := names(b.behind()); got != "agent n1, peer west" {
			t.Errorf("%s are behind", got)
		}
		time.Sleep(time.Minute)
		pair, err := b.authority.Issue(pki.Request{Role: pki.RolePeer, Name: "west", TTL: time.Hour})
		must(t, err)
		must(t, pair.Save(byHand.files.CertFile, byHand.files.KeyFile))
		must(t, os.WriteFile(byHand.files.CAFile, b.authority.Bundle(), 0o600))
		byHand.connect()
		if got := names(b.behind()); got != "agent n1" {
			t.Errorf("%s are behind", got)
		}
		time.Sleep(2 * time.Hour)
		if stage, _ := b.authority.Stage(); stage != pki.Single {
			t.Errorf("it is in %q", stage)
		}
	})
}

// Replicas sign with copies: one alone must run.
func TestShared(t *testing.T) {
	b := newBed(t, t.TempDir())
	o := &operator{Manager: b.manager(true)}
	_, err := o.Start(t.Context(), &rotationpb.StartRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "--only-replica") {
		t.Errorf("error %v", err)
	}
	_, err = o.Start(t.Context(), &rotationpb.StartRequest{OnlyReplica: true})
	must(t, err)
	if _, err := o.Start(t.Context(), &rotationpb.StartRequest{OnlyReplica: true}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	if _, err := o.Finish(t.Context(), &rotationpb.FinishRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("before the new one signs: %v", err)
	}
}

// What a holder says of somebody else's certificate counts for nothing.
func TestHeardRefuses(t *testing.T) {
	b := newBed(t, t.TempDir())
	agent, other := b.holder(pki.RoleAgent, "n1"), b.holder(pki.RoleAgent, "n2")
	must(t, b.authority.Begin())
	must(t, b.authority.Replace())
	newest := b.newest()
	ctx := context.WithValue(pki.ContextWithSubject(t.Context(), agent.subject), certKey{}, agent.shown)
	chain, err := os.ReadFile(other.files.CertFile)
	must(t, err)
	for name, text := range map[string][]byte{"another's": chain, "none": nil} {
		if b.heard(ctx, agent.subject, []sum{newest}, text) {
			t.Errorf("%s: taken", name)
		}
	}
	if got := names(b.behind()); got != "agent n1, agent n2" {
		t.Errorf("%s are behind", got)
	}
	if _, err := (&holders{Manager: b.Manager}).Trust(t.Context(), &rotationpb.TrustRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
}

// A process that ends between a renewal and what its holder says of it does not wait
// for the old certificate afterwards.
func TestReplaces(t *testing.T) {
	now := time.Now()
	peer := holding{Role: pki.RolePeer, Name: "west", Begins: now, Ends: now.Add(time.Hour), Trusts: []sum{{1}}}
	with := func(change func(*holding)) holding {
		h := peer
		change(&h)
		return h
	}
	agent := func(h *holding) { h.Role = pki.RoleAgent }
	for name, test := range map[string]struct {
		h, other holding
		want     bool
	}{
		"a renewed one":           {with(func(h *holding) { h.Ends = now.Add(2 * time.Hour) }), peer, true},
		"the other way round":     {peer, with(func(h *holding) { h.Ends = now.Add(2 * time.Hour) }), false},
		"another peer's":          {with(func(h *holding) { h.Name = "south" }), peer, false},
		"another join":            {with(func(h *holding) { h.Begins = now.Add(time.Second) }), peer, false},
		"an agent's":              {with(func(h *holding) { agent(h); h.Begins = now.Add(time.Second) }), with(agent), true},
		"by hand":                 {with(func(h *holding) { h.Begins, h.Root = now.Add(time.Second), sum{2} }), with(func(h *holding) { h.Trusts = nil }), true},
		"by hand, of the old one": {with(func(h *holding) { h.Begins = now.Add(time.Second) }), with(func(h *holding) { h.Trusts = nil }), false},
	} {
		if test.h.replaces(test.other) != test.want {
			t.Errorf("%s: %t", name, !test.want)
		}
	}
}

func TestLedgerFile(t *testing.T) {
	b := newBed(t, t.TempDir())
	b.holder(pki.RolePeer, "west")
	must(t, b.ledger.save())
	path := filepath.Join(b.dir, "holders.json")
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 || openLedger(path, false, b.log).holders() != 1 {
		t.Errorf("mode %04o", info.Mode().Perm())
	}
	for _, text := range []string{"x", `{"zz":{}}`} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if l := openLedger(path, false, b.log); l.holders() != 0 || !l.lost() {
			t.Errorf("%q is read", text)
		}
	}
	var p sum
	if err := p.UnmarshalText([]byte("00")); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
