package gateway

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// roleNone is the metric's label for a connection without a certificate.
const roleNone pki.Role = "none"

var (
	errTooMany  = errors.New("too many connections")
	errReplaced = errors.New("the certificate's authority was replaced during the handshake")
)

// connection is what is known of one connection; gRPC hands it to each call as
// the peer's AuthInfo.
type connection struct {
	credentials.TLSInfo

	// known is false without a certificate; subject and until are zero then.
	known   bool
	subject pki.Subject
	// from and until are the time of the certificate.
	from, until time.Time
	// cut closes the connection.
	cut func()
	// certificate is the caller's, nil while it is not known. renewed is the end of
	// one that it was given since, on this connection.
	certificate *x509.Certificate
	renewed     atomic.Pointer[time.Time]
	// root is the authority of the newest certificate that is known of the caller, nil
	// where nobody asked for it.
	root atomic.Pointer[[sha256.Size]byte]
	// watches is how many are open in all streams of the connection.
	watches atomic.Int64
	// streams is how many are open, counted without a certificate only; proven says that
	// a secret was right there.
	streams atomic.Int64
	proven  atomic.Bool
	// holder counts what all connections of the subject have, nil while it is not
	// known.
	holder *holder
}

// handshaker makes TLS connections out of accepted ones, says who is at the
// other end, and bounds how many there are.
type handshaker struct {
	credentials.TransportCredentials

	cluster  string
	refusals *refusals
	excluded *Exclusions
	crowd    *crowd
	byRole   *prometheus.GaugeVec
}

func newHandshaker(
	cluster string, config *tls.Config, refusals *refusals, excluded *Exclusions, registerer prometheus.Registerer,
) *handshaker {
	h := &handshaker{
		TransportCredentials: credentials.NewTLS(config),
		cluster:              cluster,
		refusals:             refusals,
		excluded:             excluded,
		crowd:                newCrowd(),
		byRole: promauto.With(registerer).NewGaugeVec(prometheus.GaugeOpts{
			Name: "causeway_gateway_connections",
			Help: "Open connections to the gateway, by the role in the certificate.",
		}, []string{"role"}),
	}
	for _, role := range []pki.Role{pki.RolePeer, pki.RoleAgent, pki.RoleAdmin, roleNone} {
		h.byRole.WithLabelValues(string(role))
	}
	return h
}

// Clone returns h itself: its counts are those of the port.
func (h *handshaker) Clone() credentials.TransportCredentials { return h }

// ServerHandshake runs in a goroutine of each accepted connection, with its
// deadline set. gRPC closes raw when there is an error.
func (h *handshaker) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	address := raw.RemoteAddr().String()
	cut := sync.OnceFunc(func() { _ = raw.Close() }) // without TLS's farewell, which may wait for a reader
	defer h.crowd.begin(func() {
		h.refusals.note(reasonLimit, address, errTooMany)
		cut()
	})()
	conn, info, err := h.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		h.noteHandshake(address, err)
		return nil, nil, err
	}
	c, err := h.identify(info)
	if err != nil {
		h.refusals.note(reasonCertificate, address, err)
		return nil, nil, errors.Join(err, conn.Close())
	}
	c.cut = cut
	forget, ok := h.excluded.enter(c)
	if !ok {
		forget()
		h.refusals.note(reasonCertificate, address, errReplaced)
		return nil, nil, errors.Join(errReplaced, conn.Close())
	}
	leave, gone, ok := h.crowd.enter(c)
	if !ok {
		forget()
		h.refusals.note(reasonLimit, address, errTooMany)
		return nil, nil, errors.Join(errTooMany, conn.Close())
	}
	if gone != nil {
		h.refusals.note(reasonLimit, address, errTooMany)
		gone.cut()
	}
	role := roleNone
	if c.known {
		role = c.subject.Role
	}
	gauge := h.byRole.WithLabelValues(string(role))
	gauge.Inc()
	counted := &countedConn{Conn: conn, closed: sync.OnceFunc(func() {
		gauge.Dec()
		forget()
		leave()
	})}
	if !c.known {
		return newBrief(counted, c.cut), c, nil
	}
	return counted, c, nil
}

// noteHandshake tells a certificate that is refused from a client that speaks
// something else. Probes that connect and go are neither, nor is who had to make
// room, which was counted.
func (h *handshaker) noteHandshake(address string, err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return
	}
	why := reasonHandshake
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		why = reasonCertificate
	}
	h.refusals.note(why, address, err)
}

// identify reads who is at the other end off a verified certificate.
func (h *handshaker) identify(info credentials.AuthInfo) (*connection, error) {
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, fmt.Errorf("connection is of type %q, not TLS", info.AuthType())
	}
	c := &connection{TLSInfo: tlsInfo}
	if len(tlsInfo.State.VerifiedChains) == 0 {
		return c, nil
	}
	chain := tlsInfo.State.VerifiedChains[0]
	subject, err := pki.SubjectOfChain(chain)
	if err != nil {
		return nil, err
	}
	if subject.Cluster != h.cluster {
		return nil, fmt.Errorf("certificate %s: %w", subject, pki.ErrWrongCluster)
	}
	c.known, c.subject, c.from, c.until = true, subject, chain[0].NotBefore, chain[0].NotAfter
	c.certificate = chain[0]
	return c, nil
}

// countedConn says once that it is closed.
type countedConn struct {
	net.Conn

	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
