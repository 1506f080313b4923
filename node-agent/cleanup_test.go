package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// TestCleanup takes out what an agent and a node's network left, which it refuses
// while the agent runs, and can be run again.
func TestCleanup(t *testing.T) {
	agent, authority := newConfig(t)

	_, agent.apiServer = serve(t, authority)
	stop := start(t, agent)
	await(t, "/healthz", 200, "")
	c := cleanup{bpffs: agent.bpffs}
	var out bytes.Buffer
	if err := c.run(&out); err == nil || !strings.Contains(err.Error(), "stop the node-agent first") || out.Len() != 0 {
		t.Errorf("beside an agent: %v, %s", err, out.String())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	network, err := host.Open(host.Config{Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	err = network.Apply(host.Desired{
		Mesh:   []netip.Addr{netip.MustParseAddr("10.200.0.1")},
		Routes: []host.Route{{Prefix: netip.MustParsePrefix("10.2.0.0/16"), Mode: route.VXLAN}},
	})
	if err != nil {
		t.Fatal(err)
	}
	// An agent with another folder than the one that is named.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- network.Run(ctx) }()
	held := func(want bool) {
		t.Helper()
		end, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
		defer tick.Stop()
		for {
			_, held, err := network.Holder()
			if err == nil && held == want {
				return
			}
			select {
			case <-end:
				t.Fatalf("held %t, %v; want %t", held, err, want)
			case <-tick.C:
			}
		}
	}
	held(true)
	out.Reset()
	if err := c.run(&out); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d): stop it first", os.Getpid())) || out.Len() != 0 {
		t.Errorf("beside an agent elsewhere: %v, %s", err, out.String())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	held(false)
	wanted := []string{
		"device mesh0 (alias causeway)", "route 10.2.0.0/16 table main (protocol 203)", "nftables table inet causeway", "pin " + filepath.Join(agent.bpffs, "connect4"),
	}
	for _, run := range []struct {
		dry  bool
		verb string
	}{{true, "would remove "}, {false, "removed "}} {
		out.Reset()
		c.dryRun = run.dry
		if err := c.run(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range wanted {
			if !strings.Contains(out.String(), want) {
				t.Errorf("not said: %s%s in\n%s", run.verb, want, out.String())
			}
		}
		if n := strings.Count(out.String(), run.verb); n != strings.Count(out.String(), "\n") {
			t.Errorf("%d lines begin with %q:\n%s", n, run.verb, out.String())
		}
	}
	if items, err := network.Items(); err != nil || len(items) != 0 {
		t.Errorf("left: %v, %v", items, err)
	}
	if _, err := os.Stat(agent.bpffs); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
	out.Reset()
	nothing := func(folder string) string {
		return "there is no folder " + folder + ", so no programs or maps are pinned there; if the agent has another --bpffs-dir, give that one\nnothing of Causeway is in this node's kernel\n"
	}
	if err := c.run(&out); err != nil || out.String() != nothing(c.bpffs) {
		t.Errorf("again: %v, %s", err, out.String())
	}
	out.Reset()
	c.bpffs = filepath.Join(sandbox.BPFFS(t), "never-there")
	if err := c.run(&out); err != nil || out.String() != nothing(c.bpffs) {
		t.Errorf("without a folder: %v, %s", err, out.String())
	}
	c.bpffs = t.TempDir()
	if err := c.run(&out); !errors.Is(err, datapath.ErrBPFFS) || !strings.Contains(err.Error(), c.bpffs) {
		t.Errorf("a folder of another kind: %v", err)
	}
}
