package kvtest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quotaBytes is small, so that a test can use it up.
const quotaBytes = 16 << 20

// backend is an etcd that can be stopped, started and emptied.
type backend interface {
	start()
	stop()
	wipe()
	// wire is a proxy in front of it; it may be called before start.
	wire() *proxy
	// dial returns a client that goes through a proxy.
	dial(*proxy) *kvstore.Client
	// room does what whoever runs it does when it is out of quota.
	room(ctx context.Context) error
}

// embedded is what an API server has inside.
type embedded struct {
	t   *testing.T
	dir string
	end func()
}

func newEmbedded(t *testing.T) backend {
	b := &embedded{t: t, dir: filepath.Join(t.TempDir(), "etcd")}
	t.Cleanup(b.stop)
	return b
}

func (b *embedded) start() {
	b.t.Helper()
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: b.dir, QuotaBytes: quotaBytes})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	b.end = func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	}
	client, err := server.Dial(within(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	client.Close()
}

func (b *embedded) stop() {
	if b.end != nil {
		b.end()
		b.end = nil
	}
}

func (b *embedded) wipe() {
	b.stop()
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Fatal(err)
	}
}

func (b *embedded) wire() *proxy {
	return newProxy(b.t, "unix", func() (net.Conn, error) { return net.Dial("unix", filepath.Join(b.dir, "etcd.sock")) })
}

func (b *embedded) dial(p *proxy) *kvstore.Client {
	return dialTo(b.t, "unix://"+p.listener.Addr().String(), nil)
}

// room: it helps itself.
func (b *embedded) room(context.Context) error { return nil }

// external is an etcd of its own, as operators run it: TCP, TLS, client
// certificates of its own authority.
type external struct {
	t         *testing.T
	dir       string
	address   string
	authority *pki.Authority
	server    pki.ClientFiles
	client    *tls.Config
	etcd      *embed.Etcd
}

func newExternal(t *testing.T) backend {
	b := &external{t: t, dir: filepath.Join(t.TempDir(), "etcd")}
	certs := t.TempDir()
	var err error
	if b.authority, err = pki.OpenAuthority(filepath.Join(certs, "pki"), "etcd"); err != nil {
		t.Fatal(err)
	}
	issue := func(r pki.Request) pki.ClientFiles {
		r.TTL = time.Hour
		pair, err := b.authority.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		f := pki.ClientFiles{CAFile: b.authority.CertFile(), CertFile: filepath.Join(certs, string(r.Role)+".crt"), KeyFile: filepath.Join(certs, string(r.Role)+".key")}
		if err := pair.Save(f.CertFile, f.KeyFile); err != nil {
			t.Fatal(err)
		}
		return f
	}
	b.server = issue(pki.Request{Role: pki.RoleServer})
	if b.client, err = pki.ClientConfig(issue(pki.Request{Role: pki.RolePeer, Name: "east"}), "localhost"); err != nil {
		t.Fatal(err)
	}
	// An address that nobody else has: it is to be there for a second start.
	b.address = fmt.Sprintf("127.%d.%d.%d:2379", 1+rand.IntN(250), rand.IntN(256), 1+rand.IntN(250))
	t.Cleanup(b.stop)
	return b
}

func (b *external) start() {
	b.t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = b.dir, "fatal", []string{os.DevNull}
	address := url.URL{Scheme: "https", Host: b.address}
	self := url.URL{Scheme: "http", Host: "127.0.0.1:2380"} // a name; nothing listens there
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{address}, []url.URL{address}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{self}
	cfg.InitialCluster = cfg.Name + "=" + self.String()
	cfg.QuotaBackendBytes = quotaBytes
	cfg.EnableGRPCGateway = false
	cfg.TickMs, cfg.ElectionMs = 50, 500
	cfg.ClientTLSInfo = transport.TLSInfo{
		CertFile: b.server.CertFile, KeyFile: b.server.KeyFile, TrustedCAFile: b.server.CAFile, ClientCertAuth: true,
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case <-within(b.t).Done():
		b.t.Fatal("etcd does not come up")
	}
	b.etcd = etcd
}

func (b *external) stop() {
	if b.etcd != nil {
		b.etcd.Close()
		b.etcd = nil
	}
}

func (b *external) wipe() {
	b.stop()
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Fatal(err)
	}
}

func (b *external) wire() *proxy {
	return newProxy(b.t, "tcp", func() (net.Conn, error) { return net.Dial("tcp", b.address) })
}

func (b *external) dial(p *proxy) *kvstore.Client {
	_, port, _ := net.SplitHostPort(p.listener.Addr().String())
	return dialTo(b.t, "https://localhost:"+port, b.client)
}

func (b *external) room(ctx context.Context) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + b.address}, TLS: b.client})
	if err != nil {
		return err
	}
	defer c.Close()
	now, err := c.Get(ctx, "k")
	if err != nil {
		return err
	}
	_, err = c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	_, err2 := c.Defragment(ctx, c.Endpoints()[0])
	_, err3 := c.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	return errors.Join(err, err2, err3)
}

func dialTo(t *testing.T, endpoint string, tls *tls.Config) *kvstore.Client {
	t.Helper()
	c, err := kvstore.Dial(kvstore.ClientConfig{Endpoints: []string{endpoint}, TLS: tls, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until got returns nil.
func eventually(t *testing.T, what string, got func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := got()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("%s: %w", what, err))
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}
