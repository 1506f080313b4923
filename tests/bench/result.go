package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// machine says what was run where.
type machine struct {
	Name   string `json:"name"`
	Kernel string `json:"kernel"`
	CPUs   int    `json:"cpus"`
}

// result is what bench-connect found.
type result struct {
	machine
	Rows []row `json:"rows"`
}

// row is one figure of one case. Ratio is to the row of the same metric of the
// case "direct" in the same run; RatioLow and RatioHigh bound it with 95 %
// confidence, where it was measured often enough.
type row struct {
	Case      string  `json:"case"`
	Metric    string  `json:"metric"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Ratio     float64 `json:"ratio"`
	RatioLow  float64 `json:"ratio_low,omitempty"`
	RatioHigh float64 `json:"ratio_high,omitempty"`
}

// thisMachine returns the head of a result.
func thisMachine(name string) (machine, error) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return machine{}, fmt.Errorf("uname: %w", err)
	}
	return machine{Name: name, Kernel: unix.ByteSliceToString(uname.Release[:]), CPUs: runtime.NumCPU()}, nil
}

func (m machine) title() string {
	return fmt.Sprintf("%s: kernel %s, %d CPUs", m.Name, m.Kernel, m.CPUs)
}

// print writes the table that people read.
func (r *result) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n\n", r.title())
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "case\tmetric\tvalue\tunit\tratio\t95 % interval")
	for _, row := range r.Rows {
		bounds := "-"
		if row.RatioHigh > 0 {
			bounds = fmt.Sprintf("%.3f - %.3f", row.RatioLow, row.RatioHigh)
		}
		fmt.Fprintf(table, "%s\t%s\t%.0f\t%s\t%.3f\t%s\n", row.Case, row.Metric, row.Value, row.Unit, row.Ratio, bounds)
	}
	return table.Flush()
}

// writeResult writes a result as <dir>/<name>.json and returns the file's name.
func writeResult(dir, benchmark string, result any) (string, error) {
	data, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", benchmark, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name := filepath.Join(dir, benchmark+".json")
	return name, os.WriteFile(name, append(data, '\n'), 0o644)
}

// step says what the benchmark does now.
func step(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, "  "+strings.TrimSuffix(fmt.Sprintf(format, args...), "\n"))
}
