package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

func TestWriteTrust(t *testing.T) {
	t.Parallel()
	now := time.Unix(10_000, 0)
	since := timestamppb.New(now.Add(-2 * time.Minute))
	r := &adminpb.PeersResponse{Peers: []*adminpb.PeerTrust{
		{
			Name: "west", Id: 2, State: "synced", Endpoints: []string{"https://10.77.0.1:8475"},
			Claims: []*adminpb.Claim{
				{Class: "pods", Range: "10.2.0.0/16", Origin: "observed", Since: since},
				{Class: "pods", Range: "10.3.0.0/16", Origin: "declared", Since: since, LostTo: "south"},
			},
			Waiting:  []*adminpb.Claim{{Class: "nodes", Range: "10.9.0.0/16"}},
			Refused:  map[string]uint32{"identity": 2, "address_range": 7, "address_conflict": 2},
			Import:   &adminpb.ImportRules{Namespaces: []string{"shop", "data"}, ServiceSelector: "a=b", MaxNodes: 7, MaxBytes: 512 << 20},
			Offences: []*adminpb.Offence{{Time: since, Key: "cilium/\x1b[2J", Reason: "malformed", Detail: "what is wrong"}},
		},
		{Name: "south", State: "refused", Reason: "two clusters have one id", Declared: true, Waiting: []*adminpb.Claim{{Class: "pods", Range: "10.8.0.0/16"}}, Import: &adminpb.ImportRules{}},
	}}
	days := func(n int) *timestamppb.Timestamp { return timestamppb.New(now.Add(time.Duration(24*n+1) * time.Hour)) }
	members := map[string]*joinpb.Member{
		"west":  {Name: "west", Origin: "joined", Ends: days(28), Reader: &joinpb.Reader{Since: since, Ends: days(364), Issued: true}},
		"south": {Name: "south", Origin: "declared", Ends: days(3)},
	}
	show := func(offences bool) string {
		var out strings.Builder
		if err := writeTrust(&out, r, members, offences, now); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	text := show(true)
	for _, want := range []string{
		"joined     28 days, its 364 days", "declared   3 days", "address_range 7, address_conflict 2, identity 2", "observed since 2m0s ago", "not in effect: overlaps what south claimed first",
		"waits: causeway peers approve west", "services of shop, data with a=b; at most 7 nodes", "512 MiB", `"cilium/\x1b[2J"`,
		"two clusters have one id", "waits: to agree, add it to the claims in the peer's file", "none; what it names first", "services of all namespaces",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") || strings.Contains(show(false), "malformed") {
		t.Error("text of a peer as it is, or offences that nobody asked for")
	}
	var out strings.Builder
	if err := writeTrust(&out, &adminpb.PeersResponse{}, nil, false, now); err != nil || out.String() != "No peers.\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
