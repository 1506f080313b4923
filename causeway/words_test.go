package main

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A word that is no command is an error, below each command; none shows the help.
func TestUnknownWords(t *testing.T) {
	for _, group := range []string{"ca", "agent"} {
		var out bytes.Buffer
		cmd := newCommand(&out)
		cmd.SetArgs([]string{group, "foo"})
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), `unknown command "foo" of "causeway `+group+`"`) {
			t.Errorf("%s foo: %v", group, err)
		}
		if out.Len() > 0 {
			t.Errorf("%s foo shows %s", group, out.String())
		}
		cmd = newCommand(&out)
		cmd.SetArgs([]string{group})
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%s: %v, %s", group, err, out.String())
		}
	}
}

// A command with too few words or too many says how it is written, and help on what there
// is not is an error.
func TestWrongWords(t *testing.T) {
	for text, want := range map[string]string{
		"disconnect a b": "received 2; it is: causeway disconnect PEER",
		"peers approve":  "it is: causeway peers approve PEER [RANGE...]",
		"status extra":   "it is: causeway status",
		"help nonsense":  `no command "nonsense" to help with`,
		"help ca foo":    `no command "ca foo"`,
	} {
		cmd := newCommand(new(bytes.Buffer))
		cmd.SetArgs(strings.Fields(text))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	var out bytes.Buffer
	cmd := newCommand(&out)
	cmd.SetArgs([]string{"help", "ca", "rotate"})
	if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "causeway ca rotate [flags]") {
		t.Errorf("help: %v\n%s", err, out.String())
	}
}

// Flags are shown as they are declared: the text of one refers to the one before.
func TestFlagOrder(t *testing.T) {
	var out bytes.Buffer
	cmd := newCommand(&out)
	cmd.SetArgs([]string{"join", "--help"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	pods, mesh := strings.Index(out.String(), "--pod-cidr"), strings.Index(out.String(), "--mesh-cidr")
	if pods < 0 || mesh < pods {
		t.Errorf("the flag with what is the same comes later:\n%s", out.String())
	}
}

// What an API server refuses is said in its words; that it was asked, where it said none.
func TestAnswered(t *testing.T) {
	for want, err := range map[string]error{
		"no such peer":                status.Error(codes.NotFound, "no such peer"),
		"ask the API server: is away": status.Error(codes.Unavailable, "is away"),
	} {
		if got := answered(err).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
