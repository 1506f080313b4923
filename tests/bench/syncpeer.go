package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// hubPort is where a hub's etcd listens, peerPort a peer's gateway.
const (
	hubPort  = 2379
	peerPort = 8474
)

// peerQuota is the size of a peer's etcd: it is no limit here.
const peerQuota = 8 << 30

// peerSocket is where the peer's etcd takes the writes of the benchmark.
func peerSocket(dir string) string { return filepath.Join(dir, "etcd", "etcd.sock") }

// servePeer is a remote cluster, but for what publishes its state: an etcd with
// the gateway before it or, as a hub, with TLS of its own. It writes a byte to
// file descriptor 3 once it serves, as the lab expects.
func servePeer(ctx context.Context, args []string) error {
	if len(args) < 4 {
		return errors.New("kind, cluster, folder and address are needed")
	}
	address, err := netip.ParseAddr(args[3])
	if err != nil {
		return err
	}
	authority, err := pki.OpenAuthority(filepath.Join(args[2], "pki"), args[1])
	if err != nil {
		return err
	}
	ready := func() {
		pipe := os.NewFile(3, "ready")
		_, _ = pipe.Write([]byte{1}) // without a reader nobody waits
		_ = pipe.Close()
	}
	if args[0] == "hub" {
		return serveHub(ctx, authority, args[2], address, ready)
	}
	return serveGateway(ctx, authority, args[1], args[2], address, ready)
}

func serveGateway(ctx context.Context, authority *pki.Authority, name, dir string, address netip.Addr, ready func()) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store := kvstore.NewServer(kvstore.ServerConfig{Dir: filepath.Join(dir, "etcd"), QuotaBytes: peerQuota, Logger: log})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return store.Run(ctx) })
	g.Go(func() error {
		etcd, err := store.Dial(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = etcd.Close() }()
		tls, err := authority.ServerConfig(nil, []netip.Addr{address})
		if err != nil {
			return err
		}
		door := gateway.New(gateway.Config{
			Cluster: name, Listen: netip.AddrPortFrom(address, peerPort).String(), TLS: tls,
			Etcd: etcd.Etcd().ActiveConnection(), Register: func(grpc.ServiceRegistrar) {},
			Logger: log, Registerer: prometheus.NewRegistry(),
		})
		go func() {
			select {
			case <-door.Listening():
				ready()
			case <-ctx.Done():
			}
		}()
		return door.Run(ctx)
	})
	return g.Wait()
}

// serveHub serves etcd itself, as the reference does: what a hub shows of other
// clusters is not behind the gateway.
func serveHub(ctx context.Context, authority *pki.Authority, dir string, address netip.Addr, ready func()) error {
	pair, err := authority.Issue(pki.Request{
		Role: pki.RoleServer, TTL: time.Hour, IPs: []netip.Addr{address}, DNSNames: []string{"*.mesh.cilium.io"},
	})
	if err != nil {
		return err
	}
	cert, key := filepath.Join(dir, "hub.crt"), filepath.Join(dir, "hub.key")
	if err := pair.Save(cert, key); err != nil {
		return err
	}
	data := filepath.Dir(peerSocket(dir))
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel = "hub", data, "warn"
	client := url.URL{Scheme: "https", Host: netip.AddrPortFrom(address, hubPort).String()}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.ListenClientUrls = []url.URL{client, {Scheme: "unix", Path: peerSocket(dir)}}
	cfg.AdvertiseClientUrls = []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = cert, key
	cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.ClientCertAuth = authority.CertFile(), true
	cfg.QuotaBackendBytes = peerQuota
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer etcd.Close()
	select {
	case <-etcd.Server.ReadyNotify():
		ready()
	case err := <-etcd.Err():
		return err
	case <-ctx.Done():
		return nil
	}
	select {
	case err := <-etcd.Err():
		return err
	case <-ctx.Done():
		return nil
	}
}
