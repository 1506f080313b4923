package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResult(t *testing.T) {
	got := &result{machine: machine{Name: "connect", Kernel: "6.1.0", CPUs: 2}, Rows: []row{
		{Case: "direct", Metric: "CPU", Value: 100, Unit: "ns", Ratio: 1, RatioLow: 1, RatioHigh: 1},
		{Case: "other", Metric: "CPU", Value: 151.5, Unit: "ns", Ratio: 1.515, RatioLow: 1.4, RatioHigh: 1.6},
	}}
	dir := filepath.Join(t.TempDir(), "out", "bench")
	name, err := writeResult(dir, got.Name, got)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var read result
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, &read, cmp.AllowUnexported(result{}, machine{})); diff != "" || filepath.Base(name) != "connect.json" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
	for _, key := range []string{`"name"`, `"kernel"`, `"cpus"`, `"rows"`, `"case"`, `"metric"`, `"value"`, `"unit"`, `"ratio"`} {
		if !bytes.Contains(data, []byte(key)) {
			t.Errorf("%s is missing in %s", key, data)
		}
	}
	var table bytes.Buffer
	if err := got.print(&table); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "other   CPU     152    ns    1.515  1.400 - 1.600\n") {
		t.Errorf("table:\n%s", table.String())
	}
}

func TestThisMachine(t *testing.T) {
	got, err := thisMachine("x")
	if err != nil || got.Kernel == "" || got.CPUs < 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConclude(t *testing.T) {
	few := row{Case: "causeway 10 services, 2 backends", Ratio: 1.05, RatioLow: 1, RatioHigh: 1.1}
	for want, many := range map[string]row{
		"overlap: within":         {Case: "causeway 100000 services, 2 backends", Ratio: 1.1, RatioLow: 1.08, RatioHigh: 1.2},
		"do not overlap: outside": {Case: "causeway 100000 services, 2 backends", Ratio: 1.3, RatioLow: 1.2, RatioHigh: 1.4},
	} {
		var out bytes.Buffer
		conclude(&out, []row{few, many})
		if !strings.Contains(out.String(), "2 backends: the intervals of 10 and of 100,000 services "+want) {
			t.Errorf("%q is missing in %s", want, out.String())
		}
	}
	var out bytes.Buffer
	conclude(&out, []row{few})
	if strings.Contains(out.String(), "intervals of 10 and") {
		t.Errorf("a conclusion without rows: %s", out.String())
	}
}
