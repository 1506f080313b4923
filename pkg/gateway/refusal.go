package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// reason is why something was refused, as the metric's label has it.
type reason string

const (
	// reasonHandshake is a connection that did not become one of TLS 1.3.
	reasonHandshake reason = "handshake"
	// reasonCertificate is a certificate that is expired, of another
	// authority, or names nobody of this mesh.
	reasonCertificate reason = "certificate"
	// reasonAnonymous is a call without any certificate.
	reasonAnonymous reason = "anonymous"
	// reasonExcluded is a call with a certificate that was taken back.
	reasonExcluded reason = "excluded"
	// reasonRole is a call that the caller's role has no right to.
	reasonRole reason = "role"
	// reasonMethod is a call that is offered to nobody.
	reasonMethod reason = "method"
	// reasonRange is a read of keys that peers may not read.
	reasonRange reason = "range"
	// reasonRequest is a read in a form that is not offered.
	reasonRequest reason = "request"
	// reasonLimit is one connection, watch or key too many.
	reasonLimit reason = "limit"
)

func reasons() []reason {
	return []reason{
		reasonHandshake, reasonCertificate, reasonAnonymous, reasonExcluded, reasonRole,
		reasonMethod, reasonRange, reasonRequest, reasonLimit,
	}
}

// logEvery bounds what strangers can write into our log.
const logEvery = 10 * time.Second

// refusals counts what is refused, and logs one now and then.
type refusals struct {
	log   *slog.Logger
	some  rate.Sometimes
	total *prometheus.CounterVec
}

func newRefusals(log *slog.Logger, registerer prometheus.Registerer) *refusals {
	r := &refusals{
		log:  log,
		some: rate.Sometimes{Interval: logEvery},
		total: promauto.With(registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_gateway_refusals_total",
			Help: "Connections and calls that the gateway refused, by reason.",
		}, []string{"reason"}),
	}
	for _, why := range reasons() {
		r.total.WithLabelValues(string(why))
	}
	return r
}

// note counts a refusal of the caller at address.
func (r *refusals) note(why reason, address string, err error) {
	r.total.WithLabelValues(string(why)).Inc()
	r.some.Do(func() {
		r.log.Warn("refused at the gateway, further refusals are only counted for a while",
			"reason", string(why), "address", address, "error", err)
	})
}

// refuse counts a refused call and returns what the caller is told.
func (r *refusals) refuse(ctx context.Context, why reason, code codes.Code, format string, args ...any) error {
	err := status.Errorf(code, format, args...)
	address := ""
	if p, ok := peer.FromContext(ctx); ok {
		address = p.Addr.String()
	}
	r.note(why, address, err)
	return err
}
