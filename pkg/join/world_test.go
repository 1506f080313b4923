package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long something that must happen is waited for.
const patience = time.Minute

// peerTTL is how long a peer's first certificate is valid, which is no default.
const peerTTL = 20 * 24 * time.Hour

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
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // between two looks; nothing depends on its length
	}
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// site is a cluster: an etcd, an authority, and one replica or more.
type site struct {
	t      *testing.T
	config cluster.Config
	pkiDir string
	ranges []netip.Prefix
	claims []trust.Claim
	etcd   *kvstore.Client
}

// replica is what an API server is made of, as far as joining goes.
type replica struct {
	*Manager
	site       *site
	dir        string
	peersDir   string
	authority  *pki.Authority
	door       *gateway.Gateway
	sessions   *peer.Manager
	membership joinpb.MembershipClient
	stop       func()
}

type noSink struct{}

func (noSink) Apply(merge.Delta) {}

func newSite(t *testing.T, name string, id cluster.ID, ranges ...string) *site {
	t.Helper()
	s := &site{
		t: t, pkiDir: t.TempDir(), ranges: prefixes(ranges...),
		config: cluster.Config{Name: name, ID: id, Size: 255, SyncedCanaries: true, ExportMode: cluster.ExportServicesAndSlices},
	}
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: filepath.Join(t.TempDir(), "etcd"), Logger: quiet()})
	run(t, server.Run)
	var err error
	s.etcd, err = server.Dial(t.Context())
	check(t, err)
	t.Cleanup(func() { _ = s.etcd.Close() })
	s.publish()
	return s
}

// publish writes what a peer needs to be synced.
func (s *site) publish() {
	s.t.Helper()
	value, err := wire.EncodeConfig(s.config)
	check(s.t, err, s.etcd.Put(s.t.Context(), wire.ConfigKey(s.config.Name), value),
		s.etcd.Put(s.t.Context(), wire.HeartbeatKey, wire.EncodeTime(time.Now())))
	for _, kind := range wire.Kinds() {
		check(s.t, s.etcd.Put(s.t.Context(), wire.Layout{Cluster: s.config.Name}.Marker(kind), wire.EncodeTime(time.Now())))
	}
}

// newCluster is a site with one replica.
func newCluster(t *testing.T, name string, id cluster.ID, ranges ...string) *replica {
	t.Helper()
	return newClaimant(t, name, id, nil, ranges...)
}

// newClaimant is a cluster that says what it claims.
func newClaimant(t *testing.T, name string, id cluster.ID, claims []trust.Claim, ranges ...string) *replica {
	t.Helper()
	r := &replica{site: newSite(t, name, id, ranges...), dir: t.TempDir(), peersDir: t.TempDir()}
	r.site.claims = claims
	r.start()
	return r
}

// start begins with an empty memory, as a new process does.
func (r *replica) start() {
	t := r.site.t
	t.Helper()
	var err error
	r.authority, err = pki.OpenAuthority(r.site.pkiDir, r.site.config.Name)
	check(t, err)
	tls, err := r.authority.ServerConfig(nil, nil)
	check(t, err)
	r.sessions = peer.New(peer.Config{
		Cluster: r.site.config, Dir: r.peersDir, Joined: r.dir, Etcd: r.site.etcd, Engine: merge.NewEngine(r.site.config.Name, noSink{}), Logger: quiet(),
		Reached: func(name string, addresses []string) { r.Reached(name, addresses) },
	})
	exclusions := gateway.NewExclusions(quiet())
	var door *gateway.Gateway
	r.Manager, err = New(Config{
		Cluster: r.site.config, Version: "v1.0.0", Dir: r.dir, Authority: r.authority, PeerTTL: peerTTL, Etcd: r.site.etcd,
		Addresses: func() []string { return []string{door.Addr().String()} },
		Ranges:    func() []netip.Prefix { return slices.Clone(r.site.ranges) },
		Claims:    r.site.claims, Reserved: prefixes("10.96.0.0/12"),
		Peers: r.sessions.Status, Beliefs: r.sessions.Beliefs, Exclude: exclusions.Exclude, Readmit: exclusions.Readmit, Proven: gateway.Proven, Logger: quiet(),
	})
	check(t, err)
	door = gateway.New(gateway.Config{
		Cluster: r.site.config.Name, Listen: "127.0.0.1:0", TLS: tls, Etcd: r.site.etcd.Etcd().ActiveConnection(),
		Register: r.Register, Exclusions: exclusions, Logger: quiet(),
	})
	r.door = door
	stopMembers := run(t, r.Run)
	await(t, r.Loaded())
	stopPeers, stopDoor := run(t, r.sessions.Run), run(t, door.Run)
	await(t, door.Listening())
	conn := r.dial(pki.RoleAdmin, "admin")
	r.membership = joinpb.NewMembershipClient(conn)
	r.stop = func() {
		_ = conn.Close()
		stopDoor()
		stopPeers()
		stopMembers()
	}
}

func await(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it does not begin")
	}
}

// dial connects to the gateway with a certificate made by hand.
func (r *replica) dial(role pki.Role, name string) *grpc.ClientConn {
	r.site.t.Helper()
	pair, err := r.authority.Issue(pki.Request{Role: role, Name: name, TTL: time.Hour})
	check(r.site.t, err)
	return r.dialWith(string(pair.CertPEM), string(pair.KeyPEM))
}

func (r *replica) dialWith(cert, key string) *grpc.ClientConn {
	t := r.site.t
	t.Helper()
	config, err := pki.Admin{ClusterName: r.site.config.Name, CA: string(r.authority.CertPEM()), Cert: cert, Key: key}.ClientConfig()
	check(t, err)
	conn, err := grpc.NewClient(r.door.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ctx bounds one step of a test.
func (r *replica) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.site.t.Cleanup(cancel)
	return ctx
}

// invite returns the text of a new invitation.
func (r *replica) invite(request *joinpb.InviteRequest) string {
	r.site.t.Helper()
	answer, err := r.membership.Invite(r.ctx(), request)
	check(r.site.t, err)
	return answer.Invitation
}

// steps collects what a call says that it did.
func (r *replica) steps(stream grpc.ServerStreamingClient[joinpb.Step], err error) (out []string, failed error) {
	for err == nil {
		var s *joinpb.Step
		if s, err = stream.Recv(); err == nil {
			out = append(out, s.Text)
		}
	}
	if err.Error() == "EOF" {
		return out, nil
	}
	return out, err
}

func (r *replica) join(request *joinpb.AcceptRequest) ([]string, error) {
	return r.steps(r.membership.Accept(r.ctx(), request))
}

func (r *replica) disconnect(name string) ([]string, error) {
	return r.steps(r.membership.Disconnect(r.ctx(), &joinpb.DisconnectRequest{Peer: name}))
}

// awaitState waits until the session with a peer is in a state for a reason.
func (r *replica) awaitState(name string, want peer.State, why string) {
	r.site.t.Helper()
	eventually(r.site.t, func() error {
		p, _ := r.peer(name)
		if p.State != want || !strings.Contains(p.Reason, why) {
			return fmt.Errorf("%s reads %s: %s (%s), want %s (%s)", r.site.config.Name, name, p.State, p.Reason, want, why)
		}
		return nil
	})
}

// awaitGone waits until a peer is not read any more.
func (r *replica) awaitGone(name string) {
	r.site.t.Helper()
	eventually(r.site.t, func() error {
		if p, ok := r.peer(name); ok {
			return fmt.Errorf("%s still reads %s: %s", r.site.config.Name, name, p.State)
		}
		return nil
	})
}
