// Package gateway is the one port of a cluster that the world sees: TLS 1.3,
// and behind it what a reader of the protocol calls of etcd, the services of
// agents, and the admin service.
//
// Each call is authorised by the role in the caller's certificate, and each
// request inside a watch stream by its key range besides. A stream ends with
// the certificate that it was opened with, or with one that its connection was
// given since.
//
// etcd's part is a pass-through of our own, not etcd's grpcproxy. That one
// answers serializable reads, which is how the reference lists, from a cache
// that only writes through the proxy invalidate, and nobody writes through it
// here; and it watches by clientv3, whose silent resume after a lost connection
// would hide from a reader that the store behind has become another one. Here a
// read is a read of etcd, one watch stream is one watch stream of etcd, ends
// when that ends, and a slow reader holds up its own stream only.
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
)

// The limits of the port. They bound what one connection, and all of them, can
// cost, with much room for the largest mesh.
const (
	// maxConnections is three times the agents and peers of the largest cluster.
	maxConnections = 16384
	// maxHandshakes bounds those of whom nothing is known yet. One more takes the
	// place of one of them; see crowd.
	maxHandshakes = 1024
	// maxAnonymous is small: without a certificate there is nothing to do here. One
	// more takes the place of one of them; see crowd.
	maxAnonymous = 64
	// A connection without a certificate has so many streams at once, brings so
	// many bytes in all its time, which is one request, and ends after so long: who
	// joins is done by then.
	anonymousStreams = 4
	anonymousBytes   = maxRequest + maxRequest/4
	anonymousStay    = 75 * time.Second
	// maxStreams and maxWatches are for one connection. A reader of the
	// protocol has about 15 watches, all in one stream.
	maxStreams = 64
	maxWatches = 256
	// maxHolderCalls and maxHolderWatches are for all connections of one
	// certificate's holder: each change of a key goes to each watch of it, and each
	// call may hold an answer that nobody reads. A cluster whose nodes read by
	// themselves has some eight calls and 15 watches a connection. maxHolderStreams
	// is for streams of watches, of which a reader has one: each may hold all that a
	// watch has to catch up with.
	maxHolderCalls   = 256
	maxHolderWatches = 1024
	maxHolderStreams = 16
	// maxRequest is for requests, in bytes. The largest are the agents' reports.
	maxRequest = 1 << 20
	// maxHeaders is for a request's headers, in bytes.
	maxHeaders = 16 << 10
	// handshakeTimeout is from the accepted connection to the end of the TLS
	// and HTTP/2 handshakes.
	handshakeTimeout = 10 * time.Second
)

// The server looks after peers that vanish, and refuses those that ping it
// more often than any of our clients, or the reference, does.
const (
	pingAfter   = 20 * time.Second
	pingTimeout = 10 * time.Second
	minPing     = 5 * time.Second
	// maxIdle is how long a connection without any stream stays.
	maxIdle = 5 * time.Minute
)

// Config is what New needs. All fields but Exclusions are required.
type Config struct {
	// Cluster is the name of our own cluster.
	Cluster string
	// Listen is the host:port of the gateway.
	Listen string
	// TLS comes from the cluster's authority (pki.Authority.ServerConfig).
	TLS *tls.Config
	// Etcd is the connection to our own etcd. It stays the caller's.
	Etcd grpc.ClientConnInterface
	// Register adds the services of agents and of the command line.
	Register func(grpc.ServiceRegistrar)
	// Exclusions say whose certificates were taken back; nil: nobody's.
	Exclusions *Exclusions

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Gateway is the port. Its methods are safe for concurrent use.
type Gateway struct {
	listen     string
	server     *grpc.Server
	log        *slog.Logger
	exclusions *Exclusions
	listening  chan struct{}
	addr       atomic.Pointer[net.Addr]
}

// New returns a Gateway that serves nothing before Run.
func New(cfg Config) *Gateway {
	log := cfg.Logger.With("cluster", cfg.Cluster)
	refusals := newRefusals(log, cfg.Registerer)
	excluded := cmp.Or(cfg.Exclusions, NewExclusions(log))
	access := &access{refusals: refusals, excluded: excluded}
	g := &Gateway{listen: cfg.Listen, log: log, exclusions: excluded, listening: make(chan struct{})}
	g.server = grpc.NewServer(
		grpc.Creds(newHandshaker(cfg.Cluster, cfg.TLS, refusals, excluded, cfg.Registerer)),
		grpc.InTapHandle(access.begin),
		grpc.UnaryInterceptor(access.unary),
		grpc.StreamInterceptor(access.stream),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			return refusals.refuse(stream.Context(), reasonMethod, codes.Unimplemented, "this call is not offered")
		}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: pingAfter, Timeout: pingTimeout, MaxConnectionIdle: maxIdle,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: minPing, PermitWithoutStream: true,
		}),
		grpc.WaitForHandlers(true),
	)
	readable := readableRanges(cfg.Cluster)
	pb.RegisterKVServer(g.server, &kv{etcd: pb.NewKVClient(cfg.Etcd), readable: readable, refusals: refusals})
	pb.RegisterWatchServer(g.server, &watch{etcd: pb.NewWatchClient(cfg.Etcd), readable: readable, refusals: refusals})
	cfg.Register(g.server)
	return g
}

// Listening is closed once the port is open and Addr is known.
func (g *Gateway) Listening() <-chan struct{} { return g.listening }

// Addr returns the address that the gateway listens on, nil before it does.
func (g *Gateway) Addr() net.Addr {
	if addr := g.addr.Load(); addr != nil {
		return *addr
	}
	return nil
}

// Run listens and serves until ctx ends, then cuts all streams, whose clients
// come again by themselves, and returns nil. It may be called once.
func (g *Gateway) Run(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", g.listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("gateway: another process has the port; end it or choose another port: %w", err)
	}
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	addr := listener.Addr()
	g.addr.Store(&addr)
	close(g.listening)
	g.log.Info("gateway listens", "address", addr.String())

	// Serve returns after Stop has ended, and with it every handler.
	defer context.AfterFunc(ctx, g.server.Stop)()
	if err := g.server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("gateway at %s: %w", addr, err)
	}
	return nil
}
