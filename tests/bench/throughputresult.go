package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"text/tabwriter"
)

// throughputResult is what bench-throughput found.
type throughputResult struct {
	machine
	Rows []throughputRow `json:"rows"`
}

// throughputRow is one figure of one case. Ratio says how well it does compared
// with the case Base in the same rounds: a rate through the base's, the base's
// cost through the case's. 1 is as well as the base, less is worse.
type throughputRow struct {
	Case      string  `json:"case"`
	Metric    string  `json:"metric"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Base      string  `json:"base,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"`
	RatioLow  float64 `json:"ratio_low,omitempty"`
	RatioHigh float64 `json:"ratio_high,omitempty"`
}

// budgetThroughput is what the interval of a ratio of ours has to reach.
const budgetThroughput = 0.97

func (r throughputRow) within() bool { return r.RatioHigh >= budgetThroughput }

// throughputRows are the figures, metric by metric.
func throughputRows(cases []*carrierCase) []throughputRow {
	random := rand.New(rand.NewPCG(7, 8))
	bases := map[string]*carrierCase{}
	for _, c := range cases {
		bases[c.name] = c
	}
	var rows []throughputRow
	for _, m := range carrierMetrics() {
		for _, c := range cases {
			own := c.values[m.work]
			rate := throughputRow{Case: c.name, Metric: m.name, Value: median(own.rate), Unit: m.unit}
			cost := throughputRow{Case: c.name, Metric: m.name, Value: median(own.cost), Unit: m.cost}
			if base, ok := bases[c.base]; ok {
				rate.compare(base.name, bootstrap(quotients(own.rate, base.values[m.work].rate), random))
				cost.compare(base.name, bootstrap(quotients(base.values[m.work].cost, own.cost), random))
			}
			rows = append(rows, rate, cost)
		}
	}
	return rows
}

func (r *throughputRow) compare(base string, ratio interval) {
	r.Base, r.Ratio, r.RatioLow, r.RatioHigh = base, ratio.Value, ratio.Low, ratio.High
}

// print writes the table that people read, and what it means.
func (r *throughputResult) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n\n", r.title())
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "metric\tcase\tvalue\tunit\tto\tratio\t95 % interval")
	for _, row := range r.Rows {
		compared := "\t\t"
		if row.Base != "" {
			compared = fmt.Sprintf("%s\t%.3f\t%.3f - %.3f", row.Base, row.Ratio, row.RatioLow, row.RatioHigh)
		}
		fmt.Fprintf(table, "%s\t%s\t%.4g\t%s\t%s\n", row.Metric, row.Case, row.Value, row.Unit, compared)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nValues are medians of the rounds. A ratio says how well a case does compared with another in the same rounds: below 1 is\n"+
		"worse, for rates and for costs. CPU time is that of both processes and of the kernel's threads for packets. In all cases the\n"+
		"nodes masquerade as CNIs do. \"direct-again\" is the noise. The budget of ours is an interval that reaches %.2f.\n\n", budgetThroughput)
	for _, row := range r.Rows {
		if row.Base != "" && row.Case != caseVXLAN && row.Case != "direct-again" {
			fmt.Fprintf(w, "%s, %s, %s: %s\n", row.Case, row.Metric, row.Unit, verdict(row.within()))
		}
	}
	return nil
}
