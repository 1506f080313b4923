package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
)

// figure is one value of one row of bench-sync.
type figure struct {
	Row    string  `json:"row"`
	Metric string  `json:"metric"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	// Budget is what the value is held to, "" for nothing; Met says whether.
	Budget string `json:"budget,omitempty"`
	Met    bool   `json:"met,omitempty"`
	// Reference is what the reference took for the same, measured elsewhere.
	Reference string `json:"reference,omitempty"`
}

// atMost holds f to an upper bound, given in f's unit.
func (f figure) atMost(bound float64) figure {
	f.Budget, f.Met = "<= "+short(bound), f.Value <= bound
	return f
}

// atLeast holds f to a lower bound, given in f's unit.
func (f figure) atLeast(bound float64) figure {
	f.Budget, f.Met = ">= "+short(bound), f.Value >= bound
	return f
}

// against sets what the reference took beside f.
func (f figure) against(reference string) figure {
	f.Reference = reference
	return f
}

// syncResult is what bench-sync found.
type syncResult struct {
	machine
	Figures []figure `json:"figures"`
}

// print writes the table that people read.
func (r *syncResult) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n\n", r.title())
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "row\tmetric\tvalue\tunit\tbudget\tmet\treference, measured elsewhere")
	last := ""
	for _, f := range r.Figures {
		met := ""
		if f.Budget != "" {
			met = "NO"
			if f.Met {
				met = "yes"
			}
		}
		row := f.Row
		if row == last {
			row = ""
		}
		last = f.Row
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row, f.Metric, short(f.Value), f.Unit, f.Budget, met, f.Reference)
	}
	return table.Flush()
}

// short prints three digits that count, and all of a large number.
func short(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}
