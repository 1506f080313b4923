package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

func TestShowTokens(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	list := &strangerpb.ListResponse{Tokens: []*strangerpb.Token{
		{Id: "aa", Node: "n1", Created: at(-time.Minute), Expires: at(time.Hour)},
		{Id: "bb", Node: "n2", Created: at(-time.Hour), Expires: at(-time.Minute)},
		{Id: "cc", Node: "n3", Created: at(-time.Hour), Expires: at(time.Hour), Used: at(-time.Minute)},
		{Id: "dd", Node: "n4", Created: at(-time.Hour), Expires: at(time.Hour), Used: at(-time.Minute), Revoked: at(-time.Second)},
	}}
	for output, want := range map[string][]string{
		"table": {"aa      n1     1m0s ago   good until ", "bb      n2     1h0m ago   ended at ", "used 1m0s ago", "dd      n4     1h0m ago   taken back 1s ago"},
		"json":  {`"node": "n1"`, `"used": null`},
	} {
		var out bytes.Buffer
		if err := showTokens(&out, &options{output: output}, list, now); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(strings.ReplaceAll(out.String(), `":  `, `": `), w) {
				t.Errorf("%s: no %q in\n%s", output, w, out.String())
			}
		}
	}
	var out bytes.Buffer
	if err := showTokens(&out, &options{output: "table"}, &strangerpb.ListResponse{}, now); err != nil || out.String() != "No tokens.\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestShowRevoked(t *testing.T) {
	answer := &strangerpb.RevokeResponse{Tokens: []*strangerpb.Token{{Id: "aa", Node: "n1"}, {Id: "bb", Node: "n1", Used: timestamppb.Now()}}}
	for output, want := range map[string][]string{
		"table": {"token aa of node n1 is taken back; nobody used it\n", "token bb of node n1 is taken back; it was used"},
		"json":  {`"id": "bb"`},
	} {
		var out bytes.Buffer
		if err := showRevoked(&out, &options{output: output}, answer); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(strings.ReplaceAll(out.String(), `":  `, `": `), w) {
				t.Errorf("%s: no %q in\n%s", output, w, out.String())
			}
		}
	}
}

// The node or --list or --revoke, not both and not neither.
func TestAgentTokenArguments(t *testing.T) {
	for _, args := range [][]string{{"agent", "token"}, {"agent", "token", "n1", "--list"}, {"agent", "token", "--list", "--ttl", "1h"}, {"agent", "token", "n1", "n2"}, {"agent", "token", "n1", "--revoke", "n1"}, {"agent", "token", "--revoke", "n1", "--list"}} {
		command := newCommand(new(bytes.Buffer))
		command.SetArgs(args)
		if err := command.ExecuteContext(t.Context()); err == nil || strings.Contains(err.Error(), "no cluster is named") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
