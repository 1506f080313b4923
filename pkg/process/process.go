// Package process is what every daemon of Causeway does before and around its
// own work: flags and a config file that say the same, a logger, signals, and
// a status server. It knows nothing of what a daemon does.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// Exit statuses of Main.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// stopTimeout is how long Run may take to return once it was told to stop.
const stopTimeout = 5 * time.Second

// Daemon is a program that runs until it is told to stop.
type Daemon struct {
	// Name is the program's name, Summary one sentence for --help.
	Name    string
	Summary string
	// Flags registers the daemon's own flags. --config, --log-level,
	// --log-format, --help and --version are Main's.
	Flags func(*pflag.FlagSet)
	// Validate checks the values that flags and config file gave; its error
	// names the flag. It may be nil.
	Validate func() error
	// Headroom is for the daemon's memory; zero leaves it to Go.
	Headroom Headroom
	// Run does the work. It returns within 5 s of ctx being done; an error that
	// comes from ctx alone counts as a clean end.
	Run func(ctx context.Context, log *slog.Logger) error
	// Commands are what the program does besides, each named by the first
	// argument.
	Commands []Command
}

// Command is work that ends by itself, for a person who waits for it: its errors
// are one line on standard error.
type Command struct {
	// Name is the argument, Summary one sentence for --help.
	Name    string
	Summary string
	// Flags registers the command's own flags, beside --config and --help. It and
	// Validate may be nil.
	Flags    func(*pflag.FlagSet)
	Validate func() error
	// Run writes to stdout what it does.
	Run func(ctx context.Context, stdout io.Writer) error
}

// Main parses the arguments of the process, runs d until SIGTERM or SIGINT,
// and returns the exit status: 0 after a clean end, 1 when Run ended with an
// error or not in time, 2 for wrong flags or a wrong config file. A second
// signal ends the process at once. The process writes no core dumps.
func Main(d Daemon) int {
	if err := HideMemory(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", d.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		select {
		case <-signals:
		case <-ctx.Done():
		}
		// The kernel's default applies again before anybody is told to stop, so
		// that a second signal ends a process which hangs.
		signal.Stop(signals)
		cancel()
	}()
	defer cancel()
	return d.main(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

func (d Daemon) main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	for _, c := range d.Commands {
		if len(args) > 0 && args[0] == c.Name {
			c.Name = d.Name + " " + c.Name
			return c.main(ctx, args[1:], stdout, stderr)
		}
	}
	var logging LogConfig
	flags := newFlags(d.Name, d.Flags)
	logging.Flags(flags)
	version := flags.Bool("version", false, "print the version and exit")
	switch err := ParseFlags(flags, args); {
	case errors.Is(err, pflag.ErrHelp):
		help(stdout, d.Name, d.Summary, flags)
		for i, c := range d.Commands {
			if i == 0 {
				fmt.Fprintf(stdout, "\nCommands:\n")
			}
			fmt.Fprintf(stdout, "  %s %s\n      %s\n", d.Name, c.Name, c.Summary)
		}
		return exitOK
	case err != nil:
		return usage(stderr, d.Name, err)
	case *version:
		fmt.Fprintf(stdout, "%s %s\n", d.Name, Version())
		return exitOK
	}
	if d.Validate != nil {
		if err := d.Validate(); err != nil {
			return usage(stderr, d.Name, err)
		}
	}
	log, err := NewLogger(logging, stderr)
	if err != nil {
		return usage(stderr, d.Name, err)
	}
	d.Headroom.keep()
	log.Info("starting", "version", Version())
	if err := d.run(ctx, log); err != nil {
		log.Error("ended", "error", err)
		return exitError
	}
	log.Info("stopped")
	return exitOK
}

// main is Daemon.main for a command, whose Name is the whole of it.
func (c Command) main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := newFlags(c.Name, c.Flags)
	switch err := ParseFlags(flags, args); {
	case errors.Is(err, pflag.ErrHelp):
		help(stdout, c.Name, c.Summary, flags)
		return exitOK
	case err != nil:
		return usage(stderr, c.Name, err)
	}
	if c.Validate != nil {
		if err := c.Validate(); err != nil {
			return usage(stderr, c.Name, err)
		}
	}
	if err := c.Run(ctx, stdout); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", c.Name, err)
		return exitError
	}
	return exitOK
}

// newFlags returns a set with a program's own flags, which --help shows in the order in
// which they are declared, as their texts refer to each other.
func newFlags(name string, own func(*pflag.FlagSet)) *pflag.FlagSet {
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SortFlags = false
	if own != nil {
		own(flags)
	}
	return flags
}

func help(stdout io.Writer, name, summary string, flags *pflag.FlagSet) {
	fmt.Fprintf(stdout, "%s\n\nUsage:\n  %s [flags]\n\nFlags:\n%s", summary, name, flags.FlagUsages())
}

func usage(stderr io.Writer, name string, err error) int {
	fmt.Fprintf(stderr, "%s: %v (see %s --help)\n", name, err, name)
	return exitUsage
}

// run calls Run and holds it to its time to stop. What still runs then is
// abandoned: the process is about to exit, and an unclean end that is seen is
// better than a supervisor's SIGKILL that explains nothing.
func (d Daemon) run(ctx context.Context, log *slog.Logger) error {
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, log) }()
	select {
	case err := <-done:
		return ended(ctx, err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case err := <-done:
		return ended(ctx, err)
	case <-timeout.C:
		var stacks limitedBuffer
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1) // a buffer's Write has no error
		return fmt.Errorf("not stopped after %v; goroutines: %s", stopTimeout, stacks.String())
	}
}

// ended returns the error of a Run that returned err: none when ctx asked it
// to stop and it says no more than that.
func ended(ctx context.Context, err error) error {
	switch {
	case err == nil && ctx.Err() == nil:
		return errors.New("ended without being told to")
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil
	}
	return err
}

// limitedBuffer keeps the first 64 KiB of what is written.
type limitedBuffer struct{ data []byte }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	const limit = 64 << 10
	b.data = append(b.data, p[:min(len(p), limit-len(b.data))]...)
	return len(p), nil
}

func (b *limitedBuffer) String() string { return string(b.data) }
