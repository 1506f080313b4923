// Summary runs `go test -json` with the arguments it is given and prints what a
// person wants of it: the output of what failed, what was skipped and why, the
// time by package, and one last line with the counts. It exits with 1 when
// anything failed or nothing ran; with -no-skips when anything was skipped, too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	noSkips := flag.Bool("no-skips", false, "a skipped test is a failure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, flag.Args(), *noSkips, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		os.Exit(1)
	}
}

// run runs go test with args. The report goes to stdout, counts last; what the
// go command itself has to say goes to stderr.
func run(ctx context.Context, args []string, noSkips bool, stdout, stderr io.Writer) error {
	command := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	// Tests undo what they did to the machine when they are asked to end.
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGINT) }
	command.WaitDelay = 30 * time.Second
	command.Stderr = stderr
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		fmt.Fprintf(stderr, "go test: %v\n", err)
		return err
	}
	report := newReport(stdout)
	readErr := report.read(output)
	err = errors.Join(readErr, command.Wait())
	return report.finish(err, noSkips)
}
