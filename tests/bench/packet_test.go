package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// TestPacketWorld: each pod has an address of its own, which a drawn number
// leads to, and none is ours.
func TestPacketWorld(t *testing.T) {
	const addresses = 1 << 12
	seen := map[netip.Addr]bool{}
	for _, a := range packetWorld(addresses).Addresses {
		if seen[a.Addr] {
			t.Errorf("%v occurs twice", a.Addr)
		}
		seen[a.Addr] = true
	}
	if want := 2*addresses + 2; len(seen) != want {
		t.Errorf("%d addresses, want %d", len(seen), want)
	}
	for i := range uint32(addresses) {
		if !seen[packetPod4(i)] || !seen[packetPod6(i)] {
			t.Fatalf("pod %d is missing", i)
		}
	}
	if got := packetPod4(1<<20 - 1); got != netip.MustParseAddr("10.15.255.255") {
		t.Errorf("the last pod is %v", got)
	}
}

// TestPacket runs the whole benchmark, very small.
func TestPacket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces and eBPF")
	}
	dir := t.TempDir()
	if err := run(t.Context(), []string{"packet", "-rounds=2", "-packets=1000", "-addresses=1024", "-dir=" + dir}, nil, os.Stdout); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "packet.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got packetResult
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 8 || got.Addresses != 1024 || got.Name != "packet" {
		t.Errorf("%+v", got)
	}
	for _, row := range got.Rows {
		if row.Value <= 0 || row.Low > row.Value || row.High < row.Value || row.Budget == 0 {
			t.Errorf("%+v", row)
		}
	}
}
