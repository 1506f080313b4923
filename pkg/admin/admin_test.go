package admin

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/feed"
)

func TestReady(t *testing.T) {
	good := func() *adminpb.StatusResponse {
		return &adminpb.StatusResponse{
			Conditions: []*adminpb.Condition{{Ready: true}}, Source: &adminpb.Source{Listed: true},
			Peers: []*adminpb.Peer{{Ready: true}}, Agents: []*adminpb.Agent{{Ready: true}},
			PublishProblems: []string{"a wrong annotation"},
		}
	}
	if !ready(good()) {
		t.Error("all is ready, and a wrong annotation works with the default")
	}
	for name, spoil := range map[string]func(*adminpb.StatusResponse){
		"condition":    func(r *adminpb.StatusResponse) { r.Conditions[0].Ready = false },
		"source":       func(r *adminpb.StatusResponse) { r.Source.Listed = false },
		"manifest":     func(r *adminpb.StatusResponse) { r.Source.Problems = []*adminpb.SourceProblem{{}} },
		"peer":         func(r *adminpb.StatusResponse) { r.Peers[0].Ready = false },
		"peer problem": func(r *adminpb.StatusResponse) { r.PeerProblems = []*adminpb.PeerProblem{{}} },
		"agent":        func(r *adminpb.StatusResponse) { r.Agents[0].Ready = false },
	} {
		r := good()
		spoil(r)
		if ready(r) {
			t.Errorf("ready in spite of %s", name)
		}
	}
}

func TestMergeAgents(t *testing.T) {
	got := mergeAgents([]string{"n1", "n2", "n3"}, []feed.AgentStatus{
		{Node: "vm", Connected: true, Current: true},
		{Node: "n1", Connected: true, Current: true},
		{Node: "n2", Connected: true, Applied: feed.Applied{Error: "map full"}},
		{Node: "deleted"},
	}, false)
	type line struct {
		Node  string
		Ready bool
		Error string
	}
	var lines []line
	for _, a := range got {
		lines = append(lines, line{a.Node, a.Ready, a.Error})
	}
	want := []line{
		{"n1", true, ""},
		{"n2", false, "map full"},
		{"n3", false, "no agent of this node has connected"},
		{"vm", true, ""},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMergeAgentsOfAMesh: where packets are to be carried, an agent is ready when it
// says that it does.
func TestMergeAgentsOfAMesh(t *testing.T) {
	mesh := []netip.Addr{netip.MustParseAddr("10.200.0.1")}
	got := mergeAgents(nil, []feed.AgentStatus{
		{Node: "n1", Connected: true, Current: true, Applied: feed.Applied{Mesh: &feed.Mesh{Addresses: mesh, Peers: 1, Ranges: 2, Problems: []string{"odd"}}}},
		{Node: "n2", Connected: true, Current: true, Applied: feed.Applied{Mesh: &feed.Mesh{Error: "no device"}}},
		{Node: "n3", Connected: true, Current: true},
		{Node: "n4", Connected: true, Current: true, Applied: feed.Applied{Error: "map full"}},
	}, true)
	for i, want := range []struct {
		ready bool
		mesh  string
	}{
		{true, `addresses:"10.200.0.1" peers:1 ranges:2 problems:"odd"`},
		{false, `error:"no device"`},
		{false, `error:"not carried yet`},
		{false, `error:"not carried yet`},
	} {
		text := strings.ReplaceAll(fmt.Sprint(got[i].Mesh), "  ", " ")
		if got[i].Ready != want.ready || !strings.HasPrefix(text, want.mesh) {
			t.Errorf("%s: ready %t, %s", got[i].Node, got[i].Ready, text)
		}
	}
}
