package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

func TestInvitationText(t *testing.T) {
	for arg, want := range map[string]string{"line": "line", "-": "from the pipe"} {
		if got, err := invitationText(strings.NewReader(" from the pipe\n"), arg); err != nil || got != want {
			t.Errorf("%q: %q, %v", arg, got, err)
		}
	}
}

func TestShowStep(t *testing.T) {
	for _, tc := range []struct {
		output string
		step   step
		want   string
	}{
		{"table", step{Step: "a key was made"}, "ok  a key was made\n"},
		{"table", step{Cluster: "east", Step: "remove the file", Warning: true}, "!!  east: remove the file\n"},
		{"json", step{Step: "a key was made"}, `{"step":"a key was made","warning":false}` + "\n"},
		{"json", step{Error: "it ended"}, `{"warning":false,"error":"it ended"}` + "\n"},
	} {
		var out bytes.Buffer
		showStep(&out, &options{output: tc.output}, tc.step)
		if got := out.String(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestShowInvitations(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	list := &joinpb.DescribeResponse{Invitations: []*joinpb.Invitation{
		{Id: "aa", Allow: []string{"10.2.0.0/16", "192.0.2.0/24"}, Created: at(-time.Minute), Expires: at(time.Hour)},
		{Id: "bb", Peer: "west", Created: at(-time.Hour), Expires: at(-time.Minute)},
		{Id: "cc", Created: at(-time.Hour), Expires: at(time.Hour), UsedBy: "north", Used: at(-time.Minute)},
	}}
	for output, want := range map[string][]string{
		"table": {"aa           any    10.2.0.0/16 192.0.2.0/24   1m0s ago   good until ", "bb           west   any range                  1h0m ago   ended at ", "used by north, 1m0s ago"},
		"json":  {`"used_by": "north"`, `"peer": "west"`},
	} {
		var out bytes.Buffer
		if err := showInvitations(&out, &options{output: output}, list, now); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "facts") || strings.Contains(out.String(), "members") {
			t.Errorf("%s has more than invitations:\n%s", output, out.String())
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) && !strings.Contains(strings.ReplaceAll(out.String(), `":  "`, `": "`), w) {
				t.Errorf("%s: no %q in\n%s", output, w, out.String())
			}
		}
	}
	var out bytes.Buffer
	if err := showInvitations(&out, &options{output: "table"}, &joinpb.DescribeResponse{}, now); err != nil || out.String() != "No invitations.\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// A list of ranges that is empty, as of a variable that is not set, is not taken for none.
func TestInviteAllowsNothing(t *testing.T) {
	cmd := newCommand(&bytes.Buffer{})
	cmd.SetArgs([]string{"invite", "--allow-cidr", ""})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "--allow-cidr names no range") {
		t.Errorf("got %v", err)
	}
}

// An API server that does not bound what is claimed gives no invitation for one that does.
func TestInvitationBounded(t *testing.T) {
	if err := bounded([]string{"10.2.0.0/16"}, nil); err == nil || !strings.Contains(err.Error(), "does not know --allow-cidr") {
		t.Errorf("got %v", err)
	}
	if err := bounded([]string{"10.2.0.0/16"}, []string{"10.2.0.0/16"}); err != nil {
		t.Error(err)
	}
	if err := bounded(nil, nil); err != nil {
		t.Error(err)
	}
}
