package main

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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// patience is how long something that must happen is waited for.
const patience = time.Minute

// site is what an API server is made of, as far as joining goes.
type site struct {
	config   cluster.Config
	version  string
	ranges   []netip.Prefix
	address  string // said in place of where it is, "" for that
	dir      string // has its admin file
	sessions *peer.Manager
}

type noSink struct{}

func (noSink) Apply(merge.Delta) {}

// background runs fn until the test ends.
func background(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// newSite starts a cluster; change may make it another one than the others.
func newSite(t *testing.T, name string, id cluster.ID, change func(*site)) *site {
	t.Helper()
	s := &site{
		config: cluster.Config{Name: name, ID: id, Size: 255, SyncedCanaries: true}, version: "v1.0.0",
		ranges: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(id), 0, 0}), 16)}, dir: t.TempDir(),
	}
	if change != nil {
		change(s)
	}
	log := slog.New(slog.DiscardHandler)
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: filepath.Join(s.dir, "etcd"), Logger: log})
	background(t, server.Run)
	etcd, err := server.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	s.publish(t, etcd)
	authority, err := pki.OpenAuthority(filepath.Join(s.dir, "pki"), name)
	if err != nil {
		t.Fatal(err)
	}
	s.serve(t, etcd, authority, log)
	return s
}

// publish writes what a peer needs to be synced.
func (s *site) publish(t *testing.T, etcd *kvstore.Client) {
	t.Helper()
	config, err := wire.EncodeConfig(s.config)
	if err != nil {
		t.Fatal(err)
	}
	now := wire.EncodeTime(time.Now())
	keys := map[string][]byte{wire.ConfigKey(s.config.Name): config, wire.HeartbeatKey: now}
	for _, kind := range wire.Kinds() {
		keys[wire.Layout{Cluster: s.config.Name}.Marker(kind)] = now
	}
	for key, value := range keys {
		if err := etcd.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
}

// serve runs what joins, its gateway and its sessions, and writes the admin file.
func (s *site) serve(t *testing.T, etcd *kvstore.Client, authority *pki.Authority, log *slog.Logger) {
	t.Helper()
	tls, err := authority.ServerConfig(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.sessions = peer.New(peer.Config{
		Cluster: s.config, Dir: t.TempDir(), Joined: filepath.Join(s.dir, "joined"), Etcd: etcd, Engine: merge.NewEngine(s.config.Name, noSink{}), Logger: log,
	})
	exclusions := gateway.NewExclusions(log)
	var door *gateway.Gateway
	members, err := join.New(join.Config{
		Cluster: s.config, Version: s.version, Dir: filepath.Join(s.dir, "joined"), Authority: authority, PeerTTL: 24 * time.Hour, Etcd: etcd,
		Addresses: func() []string {
			if s.address != "" {
				return []string{s.address}
			}
			return []string{door.Addr().String()}
		},
		Ranges: func() []netip.Prefix { return slices.Clone(s.ranges) },
		Peers:  s.sessions.Status, Beliefs: s.sessions.Beliefs, Exclude: exclusions.Exclude, Readmit: exclusions.Readmit, Proven: gateway.Proven, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	door = gateway.New(gateway.Config{
		Cluster: s.config.Name, Listen: "127.0.0.1:0", TLS: tls, Etcd: etcd.Etcd().ActiveConnection(), Register: members.Register, Exclusions: exclusions, Logger: log,
	})
	background(t, members.Run)
	<-members.Loaded()
	background(t, s.sessions.Run)
	background(t, door.Run)
	<-door.Listening()
	pair, err := authority.Issue(pki.Request{Role: pki.RoleAdmin, Name: "admin", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	err = pki.WriteAdmin(filepath.Join(s.dir, "admin.yaml"), pki.Admin{
		Endpoint: door.Addr().String(), ClusterName: s.config.Name, CA: string(authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitPeers waits until a cluster reads so many others.
func (s *site) awaitPeers(t *testing.T, want int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		synced := 0
		for _, p := range s.sessions.Status() {
			if p.State == peer.Synced {
				synced++
			}
		}
		if synced == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s reads %+v, want %d", s.config.Name, s.sessions.Status(), want)
		}
		time.Sleep(5 * time.Millisecond) // between two looks; nothing depends on its length
	}
}

func dirs(sites ...*site) (out []string) {
	for _, s := range sites {
		out = append(out, s.dir)
	}
	return out
}

// record collects steps.
type record struct {
	mu    sync.Mutex
	steps []string
}

func (s *record) show(one step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, one.Cluster+": "+one.Step)
}

func (s *record) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.steps, "\n")
}

// What is killed in the middle is finished by doing it again; once more changes nothing.
func TestConnect(t *testing.T) {
	t.Parallel()
	east, west, north := newSite(t, "east", 1, nil), newSite(t, "west", 2, nil), newSite(t, "north", 3, nil)
	all := dirs(east, west, north)
	// Each time it is killed one step later than before.
	killed := 0
	for after := range 3 {
		ctx, kill := context.WithCancel(t.Context())
		var steps record
		err := connect(ctx, waysOf(all), func(s step) {
			if steps.show(s); strings.Count(steps.String(), "\n") >= 3*after {
				kill()
			}
		})
		kill()
		if err != nil {
			killed++
		}
	}
	if killed == 0 {
		t.Error("it was never killed before its end")
	}
	var steps record
	if err := connect(t.Context(), waysOf(all), steps.show); err != nil {
		t.Fatalf("%v\n%s", err, &steps)
	}
	for _, s := range []*site{east, west, north} {
		s.awaitPeers(t, 2)
	}
	// A session that begins anew with its last certificate may not have been done then.
	deadline := time.Now().Add(patience)
	for {
		var again record
		err := connect(t.Context(), waysOf(all), again.show)
		if err == nil && strings.Count(again.String(), "read each other already") == 3 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("again: %v\n%s", err, &again)
		}
		time.Sleep(200 * time.Millisecond) // between two looks; nothing depends on its length
	}
}

// All that is wrong with any pair is said at once, and nothing is changed.
func TestConnectRefuses(t *testing.T) {
	t.Parallel()
	east := newSite(t, "east", 1, nil)
	for name, tc := range map[string]struct {
		name   string
		id     cluster.ID
		change func(*site)
		want   string
	}{
		"name":    {"east", 2, nil, `both clusters are named "east"`},
		"id":      {"west", 1, func(s *site) { s.ranges = nil }, "east and west both have the id 1"},
		"size":    {"west", 2, func(s *site) { s.config.Size = 511 }, "east is of a mesh of 255 clusters and west of one of 511"},
		"ranges":  {"west", 2, func(s *site) { s.ranges = []netip.Prefix{netip.MustParsePrefix("10.1.128.0/20")} }, "range 10.1.0.0/16 of east overlaps 10.1.128.0/20 of west"},
		"version": {"west", 2, func(s *site) { s.version = "v1.2.0" }, "east runs version v1.0.0 and west runs v1.2.0"},
		"address": {"west", 2, func(s *site) { s.address = "127.0.0.1:1" }, "east does not reach west: 127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := newSite(t, tc.name, tc.id, tc.change)
			err := connect(t.Context(), waysOf(dirs(east, other)), func(s step) { t.Errorf("it did: %v", s) })
			if err == nil || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if n := len(other.sessions.Status()); n > 0 {
				t.Errorf("it has %d peers", n)
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		t.Parallel()
		west := newSite(t, "west", 2, func(s *site) { s.ranges, s.version = nil, "v1.3.0" })
		north := newSite(t, "north", 2, func(s *site) { s.config.Size, s.address = 511, "127.0.0.1:1" })
		err := connect(t.Context(), waysOf(dirs(east, west, north)), func(s step) { t.Errorf("it did: %v", s) })
		for _, want := range []string{"west and north both have the id 2", "east runs version v1.0.0 and west runs v1.3.0", "east is of a mesh of 255", "west does not reach north", "east does not reach north"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in %v", want, err)
			}
		}
	})
}

// Clocks that are more than 5 minutes apart speak against it, in both directions.
func TestClocksApart(t *testing.T) {
	now := time.Now()
	east := &side{facts: join.Facts{Name: "east", ID: 1, Size: 255, Time: now}}
	for ahead, want := range map[time.Duration]bool{4 * time.Minute: false, 6 * time.Minute: true, -6 * time.Minute: true} {
		west := &side{facts: join.Facts{Name: "west", ID: 2, Size: 255, Time: now.Add(ahead)}}
		wrong := checkFacts([]*side{east, west})
		if got := strings.Contains(fmt.Sprint(wrong), "the clocks of east and west are 6m0s apart"); got != want {
			t.Errorf("%s: %v", ahead, wrong)
		}
	}
}

// What a cluster knows of third ones, and of one of before, is said before anything
// changes.
func TestConnectAsksWhatWouldBeRefused(t *testing.T) {
	t.Parallel()
	ranges := func(text string) func(*site) {
		return func(s *site) { s.ranges = []netip.Prefix{netip.MustParsePrefix(text)} }
	}
	east, west := newSite(t, "east", 1, nil), newSite(t, "west", 2, nil)
	if err := connect(t.Context(), waysOf(dirs(east, west)), func(step) {}); err != nil {
		t.Fatal(err)
	}
	east.awaitPeers(t, 1)
	refused := func(other *site, want ...string) {
		t.Helper()
		err := connect(t.Context(), waysOf(dirs(east, other)), func(s step) { t.Errorf("it did: %v", s) })
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, want %q", err, w)
			}
		}
	}
	refused(newSite(t, "north", 2, ranges("10.9.0.0/16")), "north has the id 2, as has west, which is a peer of east")
	refused(newSite(t, "west", 3, ranges("10.9.0.0/16")), "west is not the cluster that east has as a peer of that name: its authority is ", "`causeway disconnect west` in east")
}

// A cluster of before that question is joined all the same.
func TestConnectWithAnOlderOne(t *testing.T) {
	s := &side{client: olderMembership{}, facts: join.Facts{Name: "east"}}
	if wrong := s.refuses(t.Context(), &side{facts: join.Facts{Name: "west"}}); len(wrong) != 0 {
		t.Errorf("said %v", wrong)
	}
}

// olderMembership is a cluster that does not know the question.
type olderMembership struct{ joinpb.MembershipClient }

func (olderMembership) Fits(context.Context, *joinpb.FitsRequest, ...grpc.CallOption) (*joinpb.FitsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "unknown method Fits")
}

func TestBrokenOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	wrong := errors.Join(errors.New("east: no node"), errors.New("get pods: context canceled"))
	if err := brokenOff(ctx, wrong); !errors.Is(err, wrong) {
		t.Errorf("nobody ended it, and the error is %v", err)
	}
	cancel()
	if err := brokenOff(ctx, nil); err != nil {
		t.Errorf("it succeeded, and the error is %v", err)
	}
	want := "broken off: the same command goes on from here\n  east: no node"
	if err := brokenOff(ctx, wrong); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
