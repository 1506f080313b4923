package main

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	few := row{Case: "causeway 10 services, 2 backends", Metric: wholeTime, Ratio: 1.05, RatioLow: 1, RatioHigh: 1.1}
	name := "causeway 100000 services, 2 backends"
	for want, many := range map[string]row{
		"overlap: within":         {Case: name, Metric: wholeTime, Ratio: 1.1, RatioLow: 1.08, RatioHigh: 1.2},
		"do not overlap: outside": {Case: name, Metric: wholeTime, Ratio: 1.3, RatioLow: 1.2, RatioHigh: 1.4},
	} {
		var out bytes.Buffer
		conclude(&out, []row{few, many}, 1)
		if !strings.Contains(out.String(), "2 backends: the intervals of 10 and of 100,000 services "+want) {
			t.Errorf("%q is missing in %s", want, out.String())
		}
	}
	var out bytes.Buffer
	conclude(&out, []row{few}, 1)
	if strings.Contains(out.String(), "intervals of 10 and") {
		t.Errorf("a conclusion without rows: %s", out.String())
	}
}

func TestConcludeUDP(t *testing.T) {
	var rows []row
	for services, value := range map[int]float64{10: 690, 100_000: 710} {
		name := fmt.Sprintf("UDP causeway %d services, 2 backends", services)
		rows = append(rows,
			row{Case: name, Metric: wholeTime, Value: 9310 + value}, row{Case: name, Metric: overEmpty, Value: value},
			row{Case: name + ", reverse entry", Metric: wholeTime, Value: 10_000 + 2*float64(services)/100}, row{Case: name + ", reverse entry", Metric: overEmpty, Value: 1750},
		)
	}
	var out bytes.Buffer
	conclude(&out, rows, 1)
	for _, want := range []string{
		"UDP causeway 10 services, 2 backends: 690 ns over an empty program: within the budget of 700",
		"UDP causeway 100000 services, 2 backends: 710 ns over an empty program: outside the budget of 700",
		"UDP causeway 100000 services, 2 backends: +0.2 % to 10 services: within the budget of 3 %",
		"reverse entry: 1750 ns over an empty program: within the budget of 1800",
		"reverse entry: +20.0 % to 10 services: outside the budget of 3 %",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in %s", want, out.String())
		}
	}
}
