package renewal

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal/renewalpb"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	day = 24 * time.Hour
	// life is that of an agent's certificate here: short, since what looks at it
	// often does so in no time by the test's clock, but not by the machine's.
	life = day
)

// bed is a server, and the files of a client that it signs for.
type bed struct {
	t         *testing.T
	authority *pki.Authority
	server    *Server
	files     pki.ClientFiles
	metrics   *Metrics

	trust func(*rotationpb.TrustRequest) (*rotationpb.TrustResponse, error) // nil: not offered

	mu       sync.Mutex
	subject  pki.Subject
	down     error
	calls    int
	extended time.Time
	top      *x509.Certificate // which the subject's was verified by
	moved    [sha256.Size]byte // the authority that it has shown one of since
}

func newBed(t *testing.T, dir string, subject pki.Subject, ttl time.Duration) *bed {
	t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(dir, "pki"), "east")
	must(t, err)
	b := &bed{
		t: t, authority: authority, subject: subject, metrics: NewMetrics(prometheus.NewRegistry()),
		top:   parse(t, authority.CertPEM()),
		files: pki.ClientFiles{CAFile: authority.CertFile(), CertFile: filepath.Join(dir, "a.crt"), KeyFile: filepath.Join(dir, "a.key")},
	}
	pair, err := authority.Issue(pki.Request{Role: subject.Role, Name: subject.Name, TTL: ttl})
	must(t, err)
	must(t, pair.Save(b.files.CertFile, b.files.KeyFile))
	b.server = NewServer(ServerConfig{
		Authority: authority, AgentTTL: life, PeerTTL: 30 * day,
		Certificate: func(context.Context) (*x509.Certificate, bool) { return b.certificate(), true },
		Top:         func(context.Context) (*x509.Certificate, bool) { return b.top, true },
		Root:        func(context.Context) ([sha256.Size]byte, bool) { return b.moved, b.moved != [sha256.Size]byte{} },
		Extend:      func(_ context.Context, until time.Time) { b.set(func() { b.extended = until }) },
		Logger:      slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	return b
}

func parse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func agent() pki.Subject { return pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: "n1"} }

func (b *bed) set(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fn()
}

func (b *bed) certificate() *x509.Certificate {
	b.t.Helper()
	cert, err := b.files.Certificate()
	must(b.t, err)
	return cert
}

func (b *bed) left() time.Duration { return time.Until(b.certificate().NotAfter) }

func (b *bed) asked() (calls int) {
	b.set(func() { calls = b.calls })
	return calls
}

func (b *bed) attempts(result string) float64 {
	return value(b.t, b.metrics.attempts.WithLabelValues("east", result))
}

// value returns what a counter or a gauge is at.
func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	must(t, m.Write(&out))
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// Invoke makes the bed a connection to its server as the subject, without a
// network, which a clock that is not the machine's could not wait for.
func (b *bed) Invoke(ctx context.Context, method string, request, reply any, _ ...grpc.CallOption) error {
	if method == rotationpb.Holder_Trust_FullMethodName {
		return b.followed(ctx, request.(*rotationpb.TrustRequest), reply.(*rotationpb.TrustResponse))
	}
	b.mu.Lock()
	b.calls++
	down, subject := b.down, b.subject
	b.mu.Unlock()
	if down != nil {
		return down
	}
	ctx = pki.ContextWithSubject(ctx, subject)
	r := &rpc{server: b.server}
	switch method {
	case renewalpb.Renewal_Renew_FullMethodName:
		answer, err := r.Renew(ctx, request.(*renewalpb.RenewRequest))
		if err == nil {
			reply.(*renewalpb.RenewResponse).Chain = answer.Chain
		}
		return err
	case renewalpb.Renewal_Report_FullMethodName:
		_, err := r.Report(ctx, request.(*renewalpb.ReportRequest))
		return err
	}
	return status.Error(codes.Unimplemented, method)
}

// NewStream implements grpc.ClientConnInterface; nothing here uses it.
func (b *bed) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams")
}

// keep serves a keeper until the test's end.
func (b *bed) keep(change func(*KeeperConfig)) *Keeper {
	cfg := KeeperConfig{Files: b.files, Cluster: "east", Report: true, Logger: slog.New(slog.DiscardHandler), Metrics: b.metrics}
	if change != nil {
		change(&cfg)
	}
	k := NewKeeper(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Serve(ctx, b)
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
	return k
}
