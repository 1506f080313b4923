package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

func TestWriteAuthorities(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	day := 24 * time.Hour
	one := &rotationpb.Authority{Fingerprint: "aa", Begins: at(-day), Ends: at(10 * day), Signs: true}
	two := &rotationpb.Authority{Fingerprint: "bb", Begins: at(0), Ends: at(3650 * day)}
	for name, test := range map[string]struct {
		answer *rotationpb.StatusResponse
		want   []string
	}{
		"one": {&rotationpb.StatusResponse{Authorities: []*rotationpb.Authority{one}, Holders: 3}, []string{"aa", "(10 days)", "yes", "3 peers and agents have certificates"}},
		"nobody is behind": {
			&rotationpb.StatusResponse{
				Stage: "replacing", Started: at(-time.Minute), EndsAfter: at(9 * time.Minute), Authorities: []*rotationpb.Authority{one, two}, Holders: 3,
			}, []string{"bb", "no", "begun 1m0s ago", "none needs the old one", "--finish"},
		},
		"it ends by hand": {
			&rotationpb.StatusResponse{
				Stage: "replacing", Started: at(-time.Hour), Authorities: []*rotationpb.Authority{one, two}, Holders: 3, ByHand: "the file is lost",
			}, []string{"none is known to need", "does not end by itself (the file is lost)", "--finish"},
		},
		"one is behind": {
			&rotationpb.StatusResponse{
				Stage: "replacing", Started: at(-time.Hour), Authorities: []*rotationpb.Authority{one, two}, Holders: 3,
				Behind: []*rotationpb.Behind{{Role: "peer", Name: "west", Reason: "is away", Ends: at(day)}, {Role: "agent", Name: "n1", Reason: "shows it"}},
			}, []string{"Of 3 peers", "peer west", "2026-11-23", "is away", "agent n1", "-"},
		},
	} {
		var out bytes.Buffer
		if err := writeAuthorities(&out, test.answer, now); err != nil {
			t.Fatal(err)
		}
		for _, want := range test.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, out.String())
			}
		}
	}
}

func TestCAArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"--force goes with --finish": {"ca", "rotate", "--force"},
		"unknown command":            {"ca", "rotate", "now"},
		"no cluster is named":        {"ca", "status", "--admin-file", ""},
	} {
		cmd := newCommand(new(bytes.Buffer))
		cmd.SetArgs(args)
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if wayBack("peer") == wayBack("agent") {
		t.Error("a peer comes back like an agent")
	}
}
