package kernels

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// Result is what a machine said of one test binary.
type Result struct {
	// Status is that of its process; -1 when it was not run to its end.
	Status int
	// Passed, Skipped and Failed are its tests, without those in others.
	Passed, Skipped, Failed []string
	// Output is all that it printed.
	Output string
}

// Lines by which init marks what it does.
const (
	markStart = "=== CAUSEWAY START "
	markEnd   = "=== CAUSEWAY END "
	markDone  = "=== CAUSEWAY DONE"
)

// memory of a machine, MiB.
const memory = 3072

// Boot boots a machine, and returns what its tests did, by package. What the machine
// prints goes to console, too. The error says that it did not come to its end.
func Boot(ctx context.Context, image Image, root string, console io.Writer) (map[string]*Result, error) {
	c := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(memory),
		"-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel", image.Kernel, "-initrd", root,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr net.ifnames=0")
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("%w (package qemu-system-x86)", err)
	}
	results, done := read(io.TeeReader(out, console))
	err = c.Wait()
	switch {
	case ctx.Err() != nil:
		return results, fmt.Errorf("the machine was not done: %w", context.Cause(ctx))
	case err != nil:
		return results, fmt.Errorf("qemu: %w", err)
	case !done:
		return results, fmt.Errorf("the machine ended in the middle of its tests")
	}
	return results, nil
}

// read reads a console to its end, or to the mark of it.
func read(console io.Reader) (results map[string]*Result, done bool) {
	results = map[string]*Result{}
	test := regexp.MustCompile(`^--- (PASS|SKIP|FAIL): (\S+)`)
	var now *Result
	var text strings.Builder
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if name, ok := strings.CutPrefix(line, markStart); ok {
			now = &Result{Status: -1}
			results[name] = now
			text.Reset()
			continue
		}
		done = done || strings.HasPrefix(line, markDone)
		if now == nil {
			continue
		}
		if rest, ok := strings.CutPrefix(line, markEnd); ok {
			if status, err := strconv.Atoi(rest); err == nil {
				now.Status = status
			}
			now = nil
			continue
		}
		text.WriteString(line + "\n")
		now.Output = text.String()
		if found := test.FindStringSubmatch(line); found != nil {
			list := map[string]*[]string{"PASS": &now.Passed, "SKIP": &now.Skipped, "FAIL": &now.Failed}[found[1]]
			*list = append(*list, found[2])
		}
	}
	_, _ = io.Copy(io.Discard, console) // so that it ends
	return results, done
}
