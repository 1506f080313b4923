package main

import (
	"fmt"
	"io"
)

// The budgets of the hooks over an empty program, in ns, and how much more a
// hundred thousand services may cost than ten, of a whole connection.
const (
	budgetBare    = 700
	budgetReverse = 1800
	budgetFlat    = 0.03
)

// conclude says what the table means for the budgets.
func conclude(out io.Writer, rows []row, connections int) {
	fmt.Fprintf(out, "\nA value is the CPU time of the connecting thread for socket, connect and close, the median of the rounds;\n"+
		"a ratio is to %q of the same protocol in the same round. \"direct-again\" is the noise, \"direct, 200,000\n"+
		"backends\" what many destinations cost without any service. Services are dialled at random, %d times a\n"+
		"round: all of them, or as many as the row says; of those with 50 backends, the %d that have them. What dialling\n"+
		"a hundred thousand costs more than dialling ten among as many is memory that no cache holds. A UDP case has an entry for the way back only where\n"+
		"it says so. The hook's own run time is the kernel's figure, its ratio is to the whole of %[1]q.\n\n", direct, connections, manyBackends)
	for _, backends := range []int{2, 50} {
		concludeTCP(out, rows, backends)
	}
	for _, backends := range []int{2, 50} {
		concludeUDP(out, rows, backends, "", budgetBare)
		concludeUDP(out, rows, backends, ", reverse entry", budgetReverse)
	}
}

func rowOf(rows []row, name, metric string) (row, bool) {
	for _, r := range rows {
		if r.Case == name && r.Metric == metric {
			return r, true
		}
	}
	return row{}, false
}

// concludeTCP compares a hundred thousand services with ten.
func concludeTCP(out io.Writer, rows []row, backends int) {
	name := func(services int) string { return fmt.Sprintf("causeway %d services, %d backends", services, backends) }
	few, ok := rowOf(rows, name(10), wholeTime)
	many, ok2 := rowOf(rows, name(100_000), wholeTime)
	if !ok || !ok2 {
		return
	}
	verdict := "overlap: within the budget"
	if !few.interval().overlaps(many.interval()) {
		verdict = "do not overlap: outside the budget"
	}
	fmt.Fprintf(out, "TCP, %d backends: the intervals of 10 and of 100,000 services %s\n", backends, verdict)
}

// concludeUDP compares the hooks' own cost with its budget.
func concludeUDP(out io.Writer, rows []row, backends int, suffix string, budget float64) {
	name := func(services int) string {
		return fmt.Sprintf("UDP causeway %d services, %d backends%s", services, backends, suffix)
	}
	for _, services := range sizes() {
		if own, ok := rowOf(rows, name(services), overEmpty); ok {
			fmt.Fprintf(out, "%s: %.0f ns over an empty program: %s of %.0f\n", own.Case, own.Value, verdict(own.Value <= budget), budget)
		}
	}
	for _, dialled := range []string{fmt.Sprintf("UDP causeway 100000 services, %d backends, %d dialled%s", backends, fewDialled, suffix), name(100_000)} {
		few, ok := rowOf(rows, name(10), wholeTime)
		many, ok2 := rowOf(rows, dialled, wholeTime)
		if ok && ok2 {
			more := many.Value/few.Value - 1
			fmt.Fprintf(out, "%s: %+.1f %% to 10 services: %s of %.0f %%\n", many.Case, 100*more, verdict(more <= budgetFlat), 100*budgetFlat)
		}
	}
}

func verdict(within bool) string {
	if within {
		return "within the budget"
	}
	return "outside the budget"
}

func (r row) interval() interval { return interval{r.Ratio, r.RatioLow, r.RatioHigh} }
