package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// run runs fn until the returned func is called or the test ends.
func run(t *testing.T, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, got func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := got()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // between two looks; nothing depends on its length
	}
}

// remote is a cluster with an etcd and a gateway, and what it publishes in our
// hands.
type remote struct {
	t       *testing.T
	name    string
	dir     string
	address string
	ca      *pki.Authority
	etcd    *kvstore.Client
	stop    func()
	config  cluster.Config
	// ahead is by how much the clock is that the gateway judges certificates by.
	ahead time.Duration
}

func newRemote(t *testing.T, name string, id cluster.ID) *remote {
	t.Helper()
	r := &remote{
		t: t, name: name, dir: t.TempDir(),
		config: cluster.Config{Name: name, ID: id, Size: 255, SyncedCanaries: true, ExportMode: cluster.ExportServicesAndSlices},
	}
	var err error
	if r.ca, err = pki.OpenAuthority(filepath.Join(r.dir, "pki"), name); err != nil {
		t.Fatal(err)
	}
	// A port that it can have again: connections that others make begin at 127.0.0.1.
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250)))
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.publish()
	return r
}

// start serves the etcd in dir behind the gateway.
func (r *remote) start() {
	r.t.Helper()
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: filepath.Join(r.dir, "etcd"), Logger: quiet()})
	stopEtcd := run(r.t, server.Run)
	etcd, err := server.Dial(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	tls, err := r.ca.ServerConfig(nil, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	tls.GetConfigForClient = aheadBy(r.ahead, tls.GetConfigForClient)
	door := gateway.New(gateway.Config{
		Cluster: r.name, Listen: r.address, TLS: tls, Etcd: etcd.Etcd().ActiveConnection(),
		Register: func(s grpc.ServiceRegistrar) {
			renewal.NewServer(renewal.ServerConfig{
				Authority: r.ca, AgentTTL: time.Hour, PeerTTL: renewedFor,
				Certificate: gateway.CertificateOf, Top: gateway.TopOf, Root: gateway.RootOf, Extend: gateway.Extend, Logger: quiet(),
			}).Register(s)
		},
		Logger: quiet(),
	})
	stopDoor := run(r.t, door.Run)
	select {
	case <-door.Listening():
	case <-time.After(time.Minute):
		r.t.Fatal("the gateway does not listen")
	}
	r.etcd = etcd
	r.stop = sync.OnceFunc(func() {
		stopDoor()
		_ = etcd.Close()
		stopEtcd()
	})
	r.t.Cleanup(r.stop)
}

// aheadBy has certificates judged by another clock.
func aheadBy(ahead time.Duration, of func(*tls.ClientHelloInfo) (*tls.Config, error)) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		config, err := of(hello)
		if err == nil {
			config = config.Clone()
			config.Time = func() time.Time { return time.Now().Add(ahead) }
		}
		return config, err
	}
}

// wipe loses everything and starts with an empty store at the same address.
func (r *remote) wipe() {
	r.t.Helper()
	r.stop()
	if err := os.RemoveAll(filepath.Join(r.dir, "etcd")); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func (r *remote) layout() wire.Layout { return wire.Layout{Cluster: r.name} }

func (r *remote) put(key string, value []byte, err error) {
	r.t.Helper()
	if err == nil {
		err = r.etcd.Put(r.t.Context(), key, value)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *remote) delete(key string) {
	r.t.Helper()
	if err := r.etcd.Delete(r.t.Context(), key); err != nil {
		r.t.Fatal(err)
	}
}

// publish writes config, markers, and two nodes.
func (r *remote) publish() {
	r.t.Helper()
	r.node("n1")
	r.node("n2")
	for _, kind := range wire.Kinds() {
		r.put(r.layout().Marker(kind), wire.EncodeTime(time.Now()), nil)
	}
	r.configure()
}

func (r *remote) configure() {
	r.t.Helper()
	value, err := wire.EncodeConfig(r.config)
	r.put(wire.ConfigKey(r.name), value, err)
}

// host is the address of all nodes of the cluster.
func (r *remote) host() netip.Addr { return netip.AddrFrom4([4]byte{10, 77, byte(r.config.ID), 21}) }

func (r *remote) node(name string) {
	r.t.Helper()
	value, err := wire.EncodeNode(&node.Node{
		Cluster: r.name, ClusterID: r.config.ID, Name: name, Source: "k8s",
		Addresses: []node.Address{{Type: node.InternalIP, IP: r.host()}},
	})
	r.put(r.layout().NodeKey(name), value, err)
}

// engine is a merged state that can be asked.
type engine struct{ *merge.Engine }

type noSink struct{}

func (noSink) Apply(merge.Delta) {}

// local is the cluster east with a Manager.
type local struct {
	t      *testing.T
	dir    string
	etcd   *kvstore.Client
	engine engine
	*Manager
	stop func()
	// tap is told of each change that is put in use; nil for nobody.
	tap func(cluster string, u merge.Update)
}

// tapped is an Engine that tells the tap first.
type tapped struct{ *local }

func (t tapped) Apply(cluster string, u merge.Update) {
	if t.tap != nil {
		t.tap(cluster, u)
	}
	t.engine.Apply(cluster, u)
}

func (t tapped) Remove(cluster string)                      { t.engine.Remove(cluster) }
func (t tapped) Hear(cluster string, fn func(merge.Ruling)) { t.engine.Hear(cluster, fn) }

func newLocal(t *testing.T) *local {
	t.Helper()
	l := &local{t: t, dir: t.TempDir()}
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: t.TempDir(), Logger: quiet()})
	run(t, server.Run)
	var err error
	if l.etcd, err = server.Dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.etcd.Close() })
	l.start()
	return l
}

func east() cluster.Config { return cluster.Config{Name: "east", ID: 1, Size: 255} }

// unreachable is the client of an etcd that is not there.
func unreachable(t *testing.T) *kvstore.Client {
	t.Helper()
	c, err := kvstore.Dial(kvstore.ClientConfig{Endpoints: []string{"http://127.0.0.1:1"}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// start begins with an empty memory, as a new process.
func (l *local) start() {
	l.engine = engine{merge.NewEngine("east", noSink{})}
	l.Manager = New(Config{
		Cluster: east(), Dir: l.dir, Etcd: l.etcd,
		Engine: tapped{l}, Logger: quiet(),
	})
	l.stop = run(l.t, l.Run)
}

// connect writes the peer file of r, with a certificate of r's authority.
func (l *local) connect(r *remote) {
	l.t.Helper()
	pair, err := r.ca.Issue(pki.Request{Role: pki.RolePeer, Name: "east", TTL: time.Hour})
	if err != nil {
		l.t.Fatal(err)
	}
	l.write(r.name+".ca.crt", r.ca.CertPEM())
	l.write(r.name+".crt", pair.CertPEM)
	l.write(r.name+".key", pair.KeyPEM)
	l.write(r.name, fmt.Appendf(nil, "endpoints: [https://%s]\ntrusted-ca-file: %s.ca.crt\ncert-file: %s.crt\nkey-file: %s.key\n",
		r.address, r.name, r.name, r.name))
}

// write replaces a file at once.
func (l *local) write(name string, text []byte) {
	l.t.Helper()
	temporary := filepath.Join(l.dir, "."+name)
	err := os.WriteFile(temporary, text, 0o600)
	if err == nil {
		err = os.Rename(temporary, filepath.Join(l.dir, name))
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *local) remove(name string) {
	l.t.Helper()
	if err := os.Remove(filepath.Join(l.dir, name)); err != nil {
		l.t.Fatal(err)
	}
}

// nodes are those of a peer that are in use.
func (l *local) nodes(peer string) (out []string) {
	l.engine.Read(func(s *merge.State) { out = s.Nodes(peer) })
	return out
}

func (l *local) awaitNodes(peer string, want ...string) {
	l.t.Helper()
	eventually(l.t, func() error {
		if got := l.nodes(peer); !slices.Equal(got, want) {
			return fmt.Errorf("nodes of %s: %v, want %v; sessions: %+v", peer, got, want, l.Status())
		}
		return nil
	})
}

func (l *local) awaitState(peer string, want State, why string) {
	l.t.Helper()
	eventually(l.t, func() error {
		for _, s := range l.Status() {
			if s.Name == peer && s.State == want && strings.Contains(s.Reason, why) {
				return nil
			}
		}
		return fmt.Errorf("%s is not %s (%s): %+v", peer, want, why, l.Status())
	})
}

// cached returns the keys of our own etcd about a peer.
func (l *local) cached(peer string) (out []string) {
	l.t.Helper()
	for _, prefix := range []string{"cilium/"} {
		err := l.etcd.List(l.t.Context(), kvstore.Prefix(prefix), func(i kvstore.Item) error {
			if slices.Contains(strings.Split(i.Key, "/"), peer) {
				out = append(out, i.Key)
			}
			return nil
		})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	return out
}

// awaitCache waits until the cache of a peer says that it is whole.
func (l *local) awaitCache(peer string) {
	l.t.Helper()
	eventually(l.t, func() error {
		c := wire.Layout{Cluster: peer, Cached: true}
		for _, kind := range wire.Kinds() {
			if _, found, err := l.etcd.Get(l.t.Context(), c.Marker(kind)); err != nil || !found {
				return fmt.Errorf("no marker for %s in the cache of %s: %w", kind, peer, err)
			}
		}
		return nil
	})
}
