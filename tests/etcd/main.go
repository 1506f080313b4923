// etcd is an etcd of one member, for tests of what happens where etcd is not
// embedded: it serves TLS on one address and asks for client certificates of
// one authority.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

type config struct {
	dir, listen, caFile, certFile, keyFile string
}

func main() {
	var c config
	f := pflag.NewFlagSet("etcd", pflag.ExitOnError)
	f.StringVar(&c.dir, "data-dir", "", "directory of the data")
	f.StringVar(&c.listen, "listen", "", "host:port for clients")
	f.StringVar(&c.caFile, "ca-file", "", "authority of the clients' certificates")
	f.StringVar(&c.certFile, "cert-file", "", "certificate to show")
	f.StringVar(&c.keyFile, "key-file", "", "its private key")
	_ = f.Parse(os.Args[1:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = c.dir, "error"
	client := url.URL{Scheme: "https", Host: c.listen}
	peer := url.URL{Scheme: "unix", Host: "etcd-peer-" + fmt.Sprint(os.Getpid())} // it has none
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls = nil
	cfg.EnableGRPCGateway = false
	cfg.AdvertisePeerUrls = []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.ClientTLSInfo = transport.TLSInfo{
		CertFile: c.certFile, KeyFile: c.keyFile, TrustedCAFile: c.caFile, ClientCertAuth: true,
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer etcd.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return err
	}
}
