package admin

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

func TestApproveWhatIsNotThere(t *testing.T) {
	t.Parallel()
	etcd, err := kvstore.Dial(kvstore.ClientConfig{Endpoints: []string{"http://127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	s := New(Config{Peers: peer.New(peer.Config{
		Cluster: cluster.Config{Name: "east", ID: 1, Size: 255}, Dir: t.TempDir(), Etcd: etcd, Logger: slog.New(slog.DiscardHandler),
	})})
	for want, r := range map[codes.Code]*adminpb.ApprovePeerRequest{
		codes.NotFound:        {Peer: "west"},
		codes.InvalidArgument: {Peer: "west", Ranges: []string{"10.0.0.0"}},
	} {
		if _, err := s.ApprovePeer(t.Context(), r); status.Code(err) != want {
			t.Errorf("%v: %v, want %v", r, err, want)
		}
	}
	if _, err := s.Peers(t.Context(), &adminpb.PeersRequest{Peer: "west"}); status.Code(err) != codes.NotFound {
		t.Errorf("a cluster that is no peer: %v", err)
	}
	if got, err := s.Peers(t.Context(), &adminpb.PeersRequest{}); err != nil || len(got.Peers) != 0 {
		t.Errorf("no peers: %v, %v", got, err)
	}
}

func TestProtoTrust(t *testing.T) {
	t.Parallel()
	claim := trust.Claim{Class: trust.Pods, Range: netip.MustParsePrefix("10.2.0.0/16"), Origin: trust.Declared, Since: time.Unix(9, 0)}
	got := protoTrust(peer.Status{Name: "west", ID: 2, State: peer.Synced, Refused: map[string]int{"quota": 3}}, peer.Belief{
		Declared: true, Claims: []trust.Claim{claim}, Lost: map[trust.Claim]string{claim: "south"},
		Waiting:  []trust.Claim{{Class: trust.Nodes, Range: netip.MustParsePrefix("10.9.0.0/16")}},
		Rules:    trust.Rules{Quotas: trust.DefaultQuotas()},
		Offences: []peer.Offence{{Time: time.Unix(8, 0), Key: "a\xff", Reason: trust.Malformed, Detail: "b"}},
	})
	c := got.Claims[0]
	if c.Class != "pods" || c.Range != "10.2.0.0/16" || c.Origin != "declared" || c.LostTo != "south" || c.Since.AsTime().Unix() != 9 {
		t.Errorf("claim %v", c)
	}
	if got.Waiting[0].Since != nil || got.Refused["quota"] != 3 || !got.Declared || got.Id != 2 || got.Import.MaxNodes != 25_000 {
		t.Errorf("peer %v", got)
	}
	if o := got.Offences[0]; o.Key != "a\uFFFD" || o.Reason != "malformed" || o.Time.AsTime().Unix() != 8 {
		t.Errorf("offence %v", o)
	}
}
