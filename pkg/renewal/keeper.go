package renewal

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal/renewalpb"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

const (
	// A clock may jump, and files may be replaced by somebody else: a certificate
	// is looked at this often.
	lookEvery = 10 * time.Minute
	// callTimeout bounds one call.
	callTimeout = 30 * time.Second
	// A failed renewal is tried again after minRetry at first, and after maxRetry
	// in the end, which is often in a third of a certificate's life.
	minRetry = time.Second
	maxRetry = 10 * time.Minute
	// A failure that lasts is logged again so often, another one this soon.
	tellAgain = 6 * time.Hour
	tellOther = time.Minute
)

// errNotOffered is what a server says that does not know the service.
var errNotOffered = errors.New("who signed it does not renew certificates (of another make, or an older version): give this one a new certificate before it ends")

// Metrics are of all keepers of a process.
type Metrics struct {
	ends     *prometheus.GaugeVec
	attempts *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	return &Metrics{
		ends: promauto.With(registerer).NewGaugeVec(prometheus.GaugeOpts{
			Name: "causeway_certificate_expiry_timestamp_seconds",
			Help: "When the certificate ends that this process shows to a cluster's gateway, in seconds since 1970.",
		}, []string{"cluster"}),
		attempts: promauto.With(registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_certificate_renewals_total",
			Help: "Attempts to renew the certificate for a cluster's gateway, by result.",
		}, []string{"cluster", "result"}),
	}
}

// Forget drops the series of a cluster, after its keeper has ended.
func (m *Metrics) Forget(cluster string) {
	labels := prometheus.Labels{"cluster": cluster}
	m.ends.DeletePartialMatch(labels)
	m.attempts.DeletePartialMatch(labels)
}

// KeeperConfig is what NewKeeper needs.
type KeeperConfig struct {
	// Files are renewed in place.
	Files pki.ClientFiles
	// Cluster is the one whose gateway takes the certificate.
	Cluster string
	// Report says that the gateway is told how the certificate stands: agents do.
	Report bool
	// Changed is told that the pair, or what is trusted, is another one; nil for nobody.
	// It must not wait.
	Changed func()
	// Now is the clock; nil is time.Now.
	Now     func() time.Time
	Logger  *slog.Logger
	Metrics *Metrics
}

// Keeper renews the certificate of a client. Its methods are safe for concurrent
// use.
type Keeper struct {
	cfg  KeeperConfig
	told retry.Reason // Serve's alone

	mu       sync.Mutex
	standing Standing
}

// NewKeeper returns a Keeper that has looked at nothing.
func NewKeeper(cfg KeeperConfig) *Keeper {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	return &Keeper{cfg: cfg}
}

// Standing returns how the certificate stands since it was looked at last.
func (k *Keeper) Standing() Standing {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.standing
}

// Look reads how long the certificate is good, for Standing.
func (k *Keeper) Look() { k.note(k.Standing().Problem) }

// note keeps what is wrong with the renewal, and looks at the certificate.
func (k *Keeper) note(problem string) {
	cert, err := k.cfg.Files.Certificate()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.standing.Problem = problem
	if err != nil { // who dials says so
		return
	}
	k.standing.Ends = cert.NotAfter
	k.cfg.Metrics.ends.WithLabelValues(k.cfg.Cluster).Set(float64(cert.NotAfter.Unix()))
}

// Serve renews the certificate over a connection to the gateway when it is time,
// and again until it went well, while ctx lasts. One connection is served at a time.
func (k *Keeper) Serve(ctx context.Context, conn grpc.ClientConnInterface) {
	client := renewalpb.NewRenewalClient(conn)
	var follow sync.WaitGroup
	follow.Go(func() { k.follow(ctx, rotationpb.NewHolderClient(conn), client) })
	defer follow.Wait()
	backoff := retry.Backoff{First: minRetry, Limit: maxRetry}
	var reported *Standing
	for {
		renewed, err := k.renew(ctx, client)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if err != nil {
			wait = backoff.Next()
			k.fail(err, backoff.Attempts(), wait)
		} else {
			backoff.Reset()
			k.note("")
			if renewed {
				k.tellRenewed()
			}
			wait = k.untilDue()
		}
		if now := k.Standing(); k.cfg.Report && (reported == nil || *reported != now) && k.report(ctx, client, now) {
			reported = &now
		}
		if !retry.Sleep(ctx, wait) {
			return
		}
	}
}

func (k *Keeper) renew(ctx context.Context, client renewalpb.RenewalClient) (bool, error) {
	return k.cfg.Files.Renew(k.cfg.Now(), k.ask(ctx, client))
}

// ask returns what gets a certificate for a signing request.
func (k *Keeper) ask(ctx context.Context, client renewalpb.RenewalClient) func(csrPEM []byte) ([]byte, error) {
	return func(csrPEM []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		trusted, _, err := k.cfg.Files.Trusted()
		if err != nil {
			return nil, err
		}
		answer, err := client.Renew(ctx, &renewalpb.RenewRequest{Request: csrPEM, Trusted: texts(trusted)})
		if code := status.Code(err); code == codes.Unimplemented || code == codes.PermissionDenied {
			return nil, errNotOffered
		}
		return answer.GetChain(), err
	}
}

// fail says once for a while that a renewal did not go well; status shows it.
func (k *Keeper) fail(err error, attempt int, wait time.Duration) {
	text := clean(strings.ReplaceAll(err.Error(), "\n", "; ")) // part of it may be another cluster's
	k.note(text)
	k.cfg.Metrics.attempts.WithLabelValues(k.cfg.Cluster, "error").Inc()
	if k.told.Tell(text, time.Now(), tellOther, tellAgain) {
		k.cfg.Logger.Warn("certificate is not renewed, trying again",
			"ends", k.Standing().Ends, "attempt", attempt, "delay", wait, "error", text)
	}
}

// untilDue is at most lookEvery.
func (k *Keeper) untilDue() time.Duration {
	cert, err := k.cfg.Files.Certificate()
	if err != nil {
		return lookEvery
	}
	return min(max(pki.RenewAt(cert).Sub(k.cfg.Now()), minRetry), lookEvery)
}

// report says whether it need not be tried again.
func (k *Keeper) report(ctx context.Context, client renewalpb.RenewalClient, now Standing) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := client.Report(ctx, &renewalpb.ReportRequest{Ends: now.Ends.Unix(), Problem: now.Problem})
	return err == nil || status.Code(err) == codes.Unimplemented || status.Code(err) == codes.PermissionDenied
}
