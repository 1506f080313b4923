package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

// readers are a cluster of each kind that reads this one or is read by a certificate
// that nobody renews.
func readers(now time.Time) *joinpb.DescribeResponse {
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	const day = 24 * time.Hour
	return &joinpb.DescribeResponse{Members: []*joinpb.Member{
		{Name: "north", Reader: &joinpb.Reader{Since: at(-time.Hour), Ends: at(30 * day)}},
		{Name: "out", Out: at(-time.Hour)},
		{Name: "south", Reader: &joinpb.Reader{Since: at(-time.Hour), Ends: at(-day), Issued: true, Id: 4}},
		{Name: "west", Origin: "joined", OneWay: true, Ends: at(12*day + time.Hour), Reader: &joinpb.Reader{Since: at(-time.Hour), Ends: at(364*day + time.Hour), Issued: true, Id: 2}},
	}}
}

func TestWriteMembers(t *testing.T) {
	now := time.Now()
	members, one := membersOf(readers(now), "")
	if one {
		t.Error("all of them are one reader")
	}
	var out strings.Builder
	peers := &adminpb.PeersResponse{Peers: []*adminpb.PeerTrust{{Name: "west", Import: &adminpb.ImportRules{}}}}
	if err := writeTrust(&out, peers, members, false, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"declared one way: its certificate has 12 days left and can not be renewed", "364 days left; it can not renew it: causeway peers renew west",
		"READER   ID   CERTIFICATE\n", "0 days left; it can not renew it: causeway peers renew south", "joined one way 1h0m ago; it renews its certificate itself",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if !strings.Contains(out.String(), "\nout       1h0m ago   causeway invite --peer out\n") || strings.Count(out.String(), "\nout ") != 1 {
		t.Errorf("a cluster that is out:\n%s", out.String())
	}
	for name, want := range map[string]bool{"south": true, "north": true, "west": false, "out": false, "nobody": false} {
		some, reader := membersOf(readers(now), name)
		if reader != want || len(some) > 1 {
			t.Errorf("%s: %v, %v", name, some, reader)
		}
	}
	out.Reset()
	if err := writeTrust(&out, &adminpb.PeersResponse{}, map[string]*joinpb.Member{"south": members["south"]}, false, now); err != nil || strings.Contains(out.String(), "No peers") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestPrintTrust(t *testing.T) {
	members, _ := membersOf(readers(time.Now()), "")
	var out strings.Builder
	if err := printTrust(&out, &adminpb.PeersResponse{Peers: []*adminpb.PeerTrust{{Name: "west"}}}, members); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Peers   []struct{ Name string }
		Members []struct {
			Name   string
			OneWay bool `json:"one_way"`
			Reader *struct{ Issued bool }
		}
	}
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Peers) != 1 || len(got.Members) != 4 || !got.Members[3].OneWay || !got.Members[3].Reader.Issued || got.Members[1].Reader != nil {
		t.Errorf("%+v", got)
	}
}

// Those that were put out are shown until they come back.
func TestWriteOut(t *testing.T) {
	now := time.Now()
	out := timestamppb.New(now.Add(-time.Minute))
	members := map[string]*joinpb.Member{
		"west":  {Name: "west", Out: out},
		"north": {Name: "north", Out: out, Origin: "joined"},
		"south": {Name: "south", Out: out, Reader: &joinpb.Reader{}},
		"far":   {Name: "far", Origin: "joined"},
		"again": {Name: "again", Out: out, Begun: timestamppb.New(now)},
	}
	var text bytes.Buffer
	if !writeBegun(&text, members, now) || !strings.Contains(text.String(), "again\t0s ago\tcauseway disconnect again ") || strings.Count(text.String(), "\n") != 3 {
		t.Errorf("shown:\n%s", text.String())
	}
	text.Reset()
	if !writeOut(&text, members, now) || !strings.Contains(text.String(), "west\t1m0s ago\tcauseway invite --peer west\n") || strings.Count(text.String(), "\n") != 3 {
		t.Errorf("shown:\n%s", text.String())
	}
	delete(members, "west")
	if text.Reset(); writeOut(&text, members, now) || text.Len() > 0 {
		t.Errorf("shown:\n%s", text.String())
	}
}
