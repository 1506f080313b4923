package main

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// A probe pod takes an address that is one, and ends when it is told to.
func TestProbePod(t *testing.T) {
	for _, bad := range []string{"", "8475", "[::]:0", "localhost:8475"} {
		p := probePod{listen: bad}
		if err := p.command().Validate(); err == nil || !strings.Contains(err.Error(), "--listen") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	var p probePod
	c := p.command()
	flags := pflag.NewFlagSet(c.Name, pflag.ContinueOnError)
	c.Flags(flags)
	if err := flags.Parse(nil); err != nil || c.Validate() != nil || p.listen != "[::]:8475" {
		t.Errorf("%v, %q", err, p.listen)
	}
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p.listen = taken.LocalAddr().String()
	if err := c.Run(t.Context(), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("at an address that is taken: %v", err)
	}
	p.logging.Level = "loud"
	if err := c.Run(t.Context(), &bytes.Buffer{}); err == nil {
		t.Error("a level that there is not is taken")
	}
}
