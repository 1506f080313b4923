package admin

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// well is a report of a node that reaches its peer.
func well() *probe.Report {
	return &probe.Report{Time: time.Now(), MTU: 1450, Items: []probe.Item{{Kind: "device", Name: "mesh0"}}, ItemCount: 1, Summaries: []probe.Summary{
		{Cluster: "north", Mode: route.Native, Nodes: 1},
		{Cluster: "west", Mode: route.VXLAN, Nodes: 3, Paths: 3, Reachable: 3, RTTMin: 1, RTTMedian: 2, RTTMax: 3, MTU: 1450, Source: probe.SourceKept},
	}}
}

func carrying() feed.AgentStatus {
	return feed.AgentStatus{Node: "n1", Connected: true, Applied: feed.Applied{Mesh: &feed.Mesh{Addresses: []netip.Addr{netip.MustParseAddr("10.200.0.1")}}}}
}

func TestDiagnoseNode(t *testing.T) {
	now := time.Now()
	got := diagnose("n1", carrying(), well(), now, "")
	if !got.Ok || got.Error != "" || len(got.Peers) != 2 || got.Peers[0].State != stateUntried || got.Peers[1].State != stateOK || got.Peers[1].RttMedian.AsDuration() != 2 || got.Items[0].Name != "mesh0" {
		t.Errorf("%v", got)
	}
	if got := diagnose("n1", carrying(), well(), now, "north"); !got.Ok || len(got.Peers) != 1 || got.Peers[0].Cluster != "north" {
		t.Errorf("of one peer: %v", got)
	}
	troubled := well()
	troubled.Summaries[1].Reachable, troubled.Summaries[1].Unreachable = 2, 1
	troubled.Summaries[1].Troubles = []probe.Trouble{{Reason: "silent", Node: "w1", Paths: 1}}
	got = diagnose("n1", carrying(), troubled, now, "")
	if trouble := got.Peers[1].Troubles[0]; got.Ok || got.Peers[1].State != "degraded" || trouble.Means == "" || trouble.Do == "" || trouble.Node != "w1" {
		t.Errorf("%v", got)
	}
	if got := diagnose("n1", carrying(), troubled, now, "north"); !got.Ok {
		t.Errorf("another peer's trouble counts: %v", got)
	}
}

func TestDiagnoseNodeOfWhichNothingIsKnown(t *testing.T) {
	now := time.Now()
	failed, problem := carrying(), carrying()
	failed.Applied.Mesh = &feed.Mesh{Error: "no device"}
	problem.Applied.Mesh = &feed.Mesh{Problems: []string{"a route is in the way"}}
	old, none := well(), &probe.Report{Time: now}
	old.Time = now.Add(-probe.Stale)
	for name, got := range map[string]*adminpb.NodeDiagnosis{
		"its agent is not connected: see causeway status":                           diagnose("n1", feed.AgentStatus{}, well(), now, ""),
		"its agent has not said anything yet, or is of a version that does not":     diagnose("n1", carrying(), nil, now, ""),
		"its agent has said nothing for " + probe.Stale.Round(time.Second).String(): diagnose("n1", carrying(), old, now, ""),
		"no device": diagnose("n1", failed, well(), now, ""),
		"it has no tunnel device: see causeway status": diagnose("n1", carrying(), none, now, ""),
		"": diagnose("n1", problem, well(), now, ""),
	} {
		if got.Ok || got.Error != name || name == "" && len(got.Problems) != 1 {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestPeerState(t *testing.T) {
	trouble := []probe.Trouble{{Reason: "silent"}}
	for want, all := range map[string][]probe.Summary{
		"ok":          {{Mode: route.VXLAN, Paths: 2, Reachable: 2}, {Mode: route.Native, Paths: 2, Reachable: 2}},
		"untried":     {{Mode: route.Native}, {Mode: route.Native, Troubles: trouble}},
		"pending":     {{Mode: route.VXLAN, Paths: 2, Reachable: 1}, {Mode: route.VXLAN}},
		"degraded":    {{Mode: route.VXLAN, Paths: 2, Reachable: 1, Unreachable: 1, Troubles: trouble}, {Mode: route.VXLAN, Paths: 2, Reachable: 1, Degraded: 1, Troubles: trouble}},
		"unreachable": {{Mode: route.VXLAN, Paths: 2, Unreachable: 2, Troubles: trouble}, {Mode: route.VXLAN, Nodes: 3, Troubles: trouble}},
	} {
		for _, s := range all {
			if got := peerState(&s); got != want {
				t.Errorf("%+v: %s, want %s", s, got, want)
			}
		}
	}
}

// What is found of a way that is not in use counts for nothing.
func TestDiagnoseSpare(t *testing.T) {
	r := well()
	r.Summaries = append(r.Summaries, probe.Summary{Cluster: "west", Mode: route.Native, Spare: true, Paths: 2, Unreachable: 2, Troubles: []probe.Trouble{{Reason: "unrouted"}}})
	got := diagnose("n1", carrying(), r, time.Now(), "west")
	if !got.Ok || len(got.Peers) != 2 || !got.Peers[1].Spare || got.Peers[1].State != "unreachable" || got.Peers[1].Troubles[0].Do == "" {
		t.Errorf("%v", got)
	}
	r.Summaries[2].Paths = 0
	if got := diagnose("n1", carrying(), r, time.Now(), "west"); !got.Ok || len(got.Peers) != 1 {
		t.Errorf("that nobody tries: %v", got)
	}
	reaches := withPaths([]*adminpb.Reach{{Cluster: "west"}}, map[string]*probe.Report{"n1": r}, time.Now())
	if reaches[0].Paths != 3 || reaches[0].PathsOk != 3 {
		t.Errorf("%v", reaches)
	}
}

func TestReasonsOfReaches(t *testing.T) {
	s := New(Config{RouteReason: func(cluster string) string { return "auto: " + cluster }})
	got := s.withReasons([]*adminpb.Reach{{Cluster: "east"}, {Cluster: "west", Mode: "vxlan"}})
	if got[0].ModeReason != "" || got[1].ModeReason != "auto: west" {
		t.Errorf("%v", got)
	}
}

func TestPathsOfReaches(t *testing.T) {
	now, old := time.Now(), well()
	old.Time = now.Add(-probe.Stale)
	lame := well()
	lame.Summaries[1].Reachable = 1
	got := withPaths([]*adminpb.Reach{{Cluster: "east"}, {Cluster: "west"}}, map[string]*probe.Report{"n1": well(), "n2": lame, "n3": old}, now)
	if diff := cmp.Diff([]uint32{0, 0, 6, 4}, []uint32{got[0].Paths, got[0].PathsOk, got[1].Paths, got[1].PathsOk}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A cluster that leaves packets to the network is told so.
func TestDiagnoseWithoutMesh(t *testing.T) {
	client := adminpb.NewAdminClient(newDoor(t).dial(pki.RoleAdmin, "me"))
	if _, err := client.Diagnose(t.Context(), &adminpb.DiagnoseRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v", err)
	}
}
