package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

func TestCarrierAddresses(t *testing.T) {
	last := podAddress(1)
	for range 250_000 {
		last = last.Next()
	}
	if !podRange(1).Contains(last) || podRange(0).Overlaps(podRange(1)) {
		t.Errorf("%s is the last pod of %s, beside %s", last, podRange(1), podRange(0))
	}
	for side := range sides {
		for _, a := range []netip.Addr{nodeAddress(side), meshAddress(side)} {
			if podRange(0).Contains(a) || podRange(1).Contains(a) {
				t.Errorf("%s is in a pod range", a)
			}
		}
	}
}

func TestMeshState(t *testing.T) {
	c := meshState(0, 1000)
	if len(c.Addresses) != 1001 || len(c.Nodes) != 2 || len(c.Ranges) != 1 || c.Ranges[0].Prefix != podRange(1) {
		t.Errorf("%d addresses, %d nodes, ranges %v", len(c.Addresses), len(c.Nodes), c.Ranges)
	}
	for _, a := range c.Addresses {
		if !podRange(int(a.Cluster)-1).Contains(a.Addr) || a.Host != nodeAddress(int(a.Cluster)-1) {
			t.Errorf("%+v", a)
		}
	}
	if err := c.Self.Validate(); err != nil {
		t.Error(err)
	}
}

// TestThroughputRows: half the rate and twice the cost are both half as good.
func TestThroughputRows(t *testing.T) {
	cases := carrierCases(0)
	for i, c := range cases {
		for _, m := range carrierMetrics() {
			factor := float64(1 + i%2)
			c.values[m.work] = &samples{rate: []float64{100 / factor, 200 / factor}, cost: []float64{5 * factor, 6 * factor}}
		}
	}
	rows := throughputRows(cases)
	if want := 2 * len(cases) * len(carrierMetrics()); len(rows) != want || len(cases) != 3 {
		t.Fatalf("%d rows of %d cases, want %d", len(rows), len(cases), want)
	}
	for _, row := range rows {
		switch {
		case row.Case == caseDirect && row.Base == "":
		case row.Case == "direct-again" && row.Base == caseDirect && row.Ratio == 0.5 && !row.within():
		case row.Case == caseVXLAN && row.Base == caseDirect && row.Ratio == 1 && row.within():
		default:
			t.Errorf("row %+v", row)
		}
	}
}

// TestThroughput runs the whole benchmark, very small.
func TestThroughput(t *testing.T) {
	labtest.RequireRoot(t)
	dir := t.TempDir()
	args := []string{"throughput", "-rounds=1", "-time=20ms", "-max-addresses=1", "-dir=" + dir}
	if err := run(t.Context(), args, nil, os.Stdout); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "throughput.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got throughputResult
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if want := 2 * 5 * len(carrierMetrics()); len(got.Rows) != want {
		t.Errorf("%d rows, want %d", len(got.Rows), want)
	}
	for _, row := range got.Rows {
		if row.Value <= 0 || (row.Base != "") != (row.Ratio > 0) || row.RatioLow > row.RatioHigh {
			t.Errorf("row %+v", row)
		}
	}
	var out bytes.Buffer
	if err := got.print(&out); err != nil || !strings.Contains(out.String(), "causeway vxlan, 1 address ") {
		t.Errorf("printed (%v):\n%s", err, &out)
	}
}
