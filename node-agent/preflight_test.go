package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/datapath/preflight"
)

func parsed(t *testing.T, args ...string) (*lookAround, error) {
	t.Helper()
	var l lookAround
	c := l.command()
	flags := pflag.NewFlagSet(c.Name, pflag.ContinueOnError)
	c.Flags(flags)
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	return &l, c.Validate()
}

func TestPreflightRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--output=yaml":        "--output",
		"--mesh-port=0":        "--mesh-port",
		"--gateway=192.0.2.1":  "--gateway",
		"--remote-node=west-1": "--remote-node",
	} {
		if _, err := parsed(t, args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// Whatever the node is like, there is a report, for people and for programs.
func TestPreflight(t *testing.T) {
	l, err := parsed(t, "--node-name=n1", "--remote-node=127.0.0.1", "--output=json")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := l.run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	var report preflight.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || report.Node != "n1" || len(report.Findings) < 5 {
		t.Errorf("%v: %s", err, out.Bytes())
	}
	out.Reset()
	l.output = "table"
	if err := l.run(t.Context(), &out); err != nil || !strings.HasPrefix(out.String(), "CHECK") || !strings.Contains(out.String(), "127.0.0.1 answers") {
		t.Errorf("%v: %s", err, out.String())
	}
}
