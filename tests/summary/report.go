package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	Test       string // "" for what concerns the package
	Output     string
	Elapsed    float64 // seconds
	ImportPath string  // of build-output, in place of Package
}

// testName names a test, or with an empty Test its package.
type testName struct{ Package, Test string }

// report is what was seen so far. It keeps the output of tests that are not
// over yet, and drops that of those which passed.
type report struct {
	out     io.Writer
	output  map[testName]*strings.Builder
	open    map[testName]bool // tests that began and have not ended
	broken  map[string]bool   // packages with a failed test
	seconds map[string]float64
	skips   map[string][]testName // by reason

	passed, failed, skipped int
}

func newReport(out io.Writer) *report {
	return &report{
		out:     out,
		output:  map[testName]*strings.Builder{},
		open:    map[testName]bool{},
		broken:  map[string]bool{},
		seconds: map[string]float64{},
		skips:   map[string][]testName{},
	}
}

// read takes events until the end of r. Lines that are no events are shown as
// they are: the go command prints some errors so.
func (r *report) read(reader io.Reader) error {
	lines := bufio.NewReader(reader)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				r.add(e)
			} else {
				fmt.Fprintf(r.out, "%s", line)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (r *report) add(e event) {
	name := testName{e.Package, e.Test}
	switch e.Action {
	case "run":
		r.open[name] = true
	case "output":
		r.keep(name, e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnded(e)
		} else {
			r.testEnded(name, e.Action)
		}
		delete(r.output, name)
	}
}

func (r *report) keep(name testName, text string) {
	if r.output[name] == nil {
		r.output[name] = new(strings.Builder)
	}
	r.output[name].WriteString(text)
}

func (r *report) testEnded(name testName, action string) {
	delete(r.open, name)
	switch action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		r.broken[name.Package] = true
		r.show(name)
	case "skip":
		r.skipped++
		reason := r.reason(name)
		r.skips[reason] = append(r.skips[reason], name)
	}
}

func (r *report) packageEnded(e event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %6.1f s  %s\n", e.Elapsed, e.Package)
		r.seconds[e.Package] = e.Elapsed
	case "fail":
		fmt.Fprintf(r.out, "FAIL  %6.1f s  %s\n", e.Elapsed, e.Package)
		r.seconds[e.Package] = e.Elapsed
		// What had not ended when the package did is what ended it.
		for _, name := range r.unfinished(e.Package) {
			delete(r.open, name)
			r.failed++
			r.broken[e.Package] = true
			fmt.Fprintf(r.out, "not finished: %s\n", name.Test)
			r.show(name)
		}
		// Nothing to blame but the package: it did not build, or TestMain failed.
		r.show(testName{e.Package, ""})
		if !r.broken[e.Package] {
			r.failed++
		}
	}
}

func (r *report) unfinished(pkg string) []testName {
	var names []testName
	for name := range r.open {
		if name.Package == pkg {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b testName) int { return strings.Compare(a.Test, b.Test) })
	return names
}

func (r *report) show(name testName) {
	if text := r.output[name]; text != nil {
		fmt.Fprint(r.out, text.String())
	}
	delete(r.output, name)
}

// reason returns why a test was skipped: what it printed, without the frame
// that the testing package puts around it.
func (r *report) reason(name testName) string {
	var reasons []string
	if text := r.output[name]; text != nil {
		for line := range strings.Lines(text.String()) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
				continue
			}
			if place, text, ok := strings.Cut(line, ": "); ok && strings.Contains(place, ".go:") {
				line = text
			}
			reasons = append(reasons, line)
		}
	}
	if len(reasons) == 0 {
		return "no reason given"
	}
	return strings.Join(reasons, " ")
}

// finish prints the summary. It returns an error when the run is no success;
// runErr is what go test, or reading it, ended with.
func (r *report) finish(runErr error, noSkips bool) error {
	r.printTimes()
	r.printSkips()
	var err error
	switch {
	case r.failed > 0:
		err = errors.New("tests failed")
	case runErr != nil:
		err = fmt.Errorf("go test: %w", runErr)
		fmt.Fprintf(r.out, "\n%v, though no test failed\n", err)
	case r.passed+r.skipped == 0:
		err = errors.New("no test ran")
		fmt.Fprintf(r.out, "\n%v: nothing is proved by that\n", err)
	case noSkips && r.skipped > 0:
		err = errors.New("tests were skipped")
		fmt.Fprint(r.out, "\nNothing may be skipped here: install or permit what the reasons above ask for.\n")
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return err
}

func (r *report) printTimes() {
	packages := slices.SortedFunc(maps.Keys(r.seconds), func(a, b string) int {
		if r.seconds[a] != r.seconds[b] {
			return cmp.Compare(r.seconds[b], r.seconds[a])
		}
		return strings.Compare(a, b)
	})
	fmt.Fprint(r.out, "\nTime by package:\n")
	for _, name := range packages {
		fmt.Fprintf(r.out, "  %6.1f s  %s\n", r.seconds[name], name)
	}
}

func (r *report) printSkips() {
	if r.skipped == 0 {
		return
	}
	fmt.Fprint(r.out, "\nNot run:\n")
	for _, reason := range slices.Sorted(maps.Keys(r.skips)) {
		fmt.Fprintf(r.out, "  %s\n", reason)
		for _, name := range r.skips[reason] {
			fmt.Fprintf(r.out, "      %s %s\n", name.Package, name.Test)
		}
	}
}
