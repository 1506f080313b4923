package probe

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/probe/probepb"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// listen serves the reports of the agent of a node, on the loopback.
func listen(t *testing.T, s *Server, node string) *grpc.ClientConn {
	t.Helper()
	as := pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: node}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(pki.ContextWithSubject(ctx, as), r)
	}))
	if s != nil {
		s.Register(server)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-done
	})
	return conn
}

func newServer() *Server { return NewServer(ServerConfig{Registerer: prometheus.NewRegistry()}) }

func TestServeReports(t *testing.T) {
	s := newServer()
	w := &wire{device: 1450, answerers: map[netip.Addr]*answerer{theirMesh: west()}}
	p := newProber(mute{w})
	items := make([]Item, maxItems+3)
	for i := range items {
		items[i] = Item{"route", "10.2.0.0/24"}
	}
	p.config.Items = func() ([]Item, error) { return items, nil }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx)
	}()
	served := make(chan struct{})
	conn := listen(t, s, "e1")
	go func() {
		defer close(served)
		p.Serve(ctx, conn)
	}()
	p.Know(pair())
	for end := time.Now().Add(time.Minute); ; {
		r := s.Reports()["e1"]
		if r != nil && len(r.Summaries) == 1 && r.Summaries[0].Reachable == 1 {
			if r.MTU != 1450 || len(r.Items) != maxItems || r.ItemCount != maxItems+3 || r.Summaries[0].RTTMax <= 0 {
				t.Errorf("%+v", r)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", r)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := s.fresh(); n != 1 {
		t.Errorf("%.0f agents report", n)
	}
	cancel()
	<-done
	<-served
}

// An API server that is older has no such service: it is asked once.
func TestServeToAnOlderServer(t *testing.T) {
	newProber(mute{&wire{}}).Serve(t.Context(), listen(t, nil, "e1"))
}

func TestReportIsOfAgents(t *testing.T) {
	r := &rpc{server: newServer()}
	for _, role := range []pki.Role{pki.RolePeer, pki.RoleAdmin} {
		ctx := pki.ContextWithSubject(t.Context(), pki.Subject{Cluster: "east", Role: role, Name: "n1"})
		if _, err := r.Report(ctx, &probepb.ReportRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", role, err)
		}
	}
	if _, err := r.Report(t.Context(), &probepb.ReportRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("nobody: %v", err)
	}
}

func TestReportsAreForgotten(t *testing.T) {
	s := newServer()
	s.take("old", &Report{Time: time.Now().Add(-2 * keptFor)})
	s.take("stale", &Report{Time: time.Now().Add(-Stale)})
	if got := s.Reports(); len(got) != 1 || got["stale"] == nil || s.fresh() != 0 {
		t.Errorf("%v, %.0f fresh", got, s.fresh())
	}
}

func TestReportOnTheWire(t *testing.T) {
	now := time.Now()
	want := &Report{
		Time: now, MTU: 1450, Items: []Item{{"device", "mesh0"}}, ItemCount: 9,
		Summaries: []Summary{{
			Cluster: "west", Mode: route.VXLAN, Nodes: 5000, Paths: 8, Reachable: 4, Degraded: 3, Unreachable: 1,
			RTTMin: 1, RTTMedian: 2, RTTMax: 3, Loss: 0.25, MTU: 1350, Source: SourceChanged,
			Troubles: []Trouble{{reasonMTU, "1350 bytes of 1450", "w1 (10.200.2.1)", 3}},
		}},
	}
	if diff := cmp.Diff(want, reportFromProto(reportToProto(want), now)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What no agent of ours sends is cut, and can do nothing to a terminal.
	big := &probepb.ReportRequest{}
	for range maxPeers + 1 {
		big.Summaries = append(big.Summaries, &probepb.Summary{Cluster: "\x1b[31m" + strings.Repeat("x", 2*maxText), Loss: 7, Paths: 1 << 30})
	}
	for range maxItems + 1 {
		big.Items = append(big.Items, &probepb.Item{Kind: "a\nb"})
	}
	for range maxTroubles + 1 {
		big.Summaries[0].Troubles = append(big.Summaries[0].Troubles, &probepb.Trouble{})
	}
	got := reportFromProto(big, now)
	first := got.Summaries[0]
	if len(got.Summaries) != maxPeers || len(got.Items) != maxItems || got.Items[0].Kind != "ab" || len(first.Troubles) != maxTroubles ||
		strings.ContainsRune(first.Cluster, '\x1b') || len(first.Cluster) > maxText || first.Loss != 1 || first.Paths != Paths {
		t.Errorf("%d summaries, %d items, the first %+v", len(got.Summaries), len(got.Items), first)
	}
}

func TestSummaryOfPeersThatCanNotBeAsked(t *testing.T) {
	n := pair()
	n.Peers = []Peer{
		{Cluster: "a", Mode: route.VXLAN},
		{Cluster: "b", Mode: route.VXLAN, Nodes: []Node{{Name: "b1"}}},
		{Cluster: "c", Mode: route.VXLAN, Nodes: []Node{{Name: "c1", Mesh: []netip.Addr{netip.MustParseAddr("fd00::1")}}}},
		{Cluster: "d", Mode: route.Native, Nodes: []Node{{Name: "d1"}}},
	}
	var got []string
	for _, s := range summarize(n, nil) {
		reason := ""
		for _, trouble := range s.Troubles {
			reason += trouble.Reason
		}
		got = append(got, s.Cluster+" "+reason)
	}
	if diff := cmp.Diff([]string{"a no_nodes", "b no_mesh_address", "c family", "d no_peer_probe_pod"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
