package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"
)

// envChild makes this test binary a daemon: its value says how it ends.
const envChild = "CAUSEWAY_TEST_DAEMON"

func TestMainArguments(t *testing.T) {
	for name, test := range map[string]struct {
		args           []string
		validate       error
		run            error
		code           int
		stdout, stderr string // what they must contain
	}{
		"help":       {args: []string{"--help"}, code: 0, stdout: "--log-level"},
		"version":    {args: []string{"--version"}, code: 0, stdout: "testd "},
		"wrong flag": {args: []string{"--nome=x"}, code: 2, stderr: "testd: unknown flag: --nome (see testd --help)\n"},
		"wrong level": {
			args: []string{"--log-level=loud"}, code: 2,
			stderr: `testd: --log-level: "loud" is none of "debug", "info", "warn", "error" (see testd --help)`,
		},
		"not valid": {
			validate: errors.New("--name: must not be empty"), code: 2,
			stderr: "testd: --name: must not be empty (see testd --help)\n",
		},
		"error":     {run: errors.New("disk is full"), code: 1, stderr: `"error":"disk is full"`},
		"early end": {code: 1, stderr: `"error":"ended without being told to"`},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			var own string
			daemon := Daemon{
				Name: "testd", Summary: "A daemon of the test.",
				Flags:    func(f *pflag.FlagSet) { f.StringVar(&own, "name", "", "a flag of its own") },
				Validate: func() error { return test.validate },
				Run:      func(context.Context, *slog.Logger) error { return test.run },
			}
			if code := daemon.main(t.Context(), test.args, &stdout, &stderr); code != test.code {
				t.Errorf("exit status %d, want %d; stderr: %s", code, test.code, stderr.String())
			}
			if !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("stdout:\n%s\nstderr:\n%s", stdout.String(), stderr.String())
			}
		})
	}
}

// TestRunEnds tells a daemon to stop and looks at what its end is taken for.
func TestRunEnds(t *testing.T) {
	broken := errors.New("cannot close the store")
	for name, test := range map[string]struct {
		run  func(context.Context) error
		want string
	}{
		"cleanly":             {func(ctx context.Context) error { <-ctx.Done(); return nil }, ""},
		"with context's":      {func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("watch: %w", ctx.Err()) }, ""},
		"with its own":        {func(ctx context.Context) error { <-ctx.Done(); return broken }, broken.Error()},
		"late, but in time":   {func(ctx context.Context) error { <-ctx.Done(); <-time.After(4 * time.Second); return nil }, ""},
		"late, with its own":  {func(ctx context.Context) error { <-ctx.Done(); <-time.After(4 * time.Second); return broken }, broken.Error()},
		"before, with an own": {func(context.Context) error { return broken }, broken.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(time.Minute, cancel)
				daemon := Daemon{Name: "testd", Run: func(ctx context.Context, _ *slog.Logger) error { return test.run(ctx) }}
				err := daemon.run(ctx, slog.New(slog.DiscardHandler))
				if got := fmt.Sprint(err); got != test.want && (test.want != "" || err != nil) {
					t.Errorf("error %v, want %q", err, test.want)
				}
			})
		})
	}
}

// TestRunHangs: a daemon that does not stop is left after 5 s, with its stacks.
func TestRunHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		release := make(chan struct{})
		daemon := Daemon{Name: "testd", Run: func(context.Context, *slog.Logger) error { <-release; return nil }}
		begin := time.Now()
		err := daemon.run(ctx, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "not stopped after 5s") || !strings.Contains(err.Error(), "TestRunHangs") {
			t.Errorf("error %v, want one with the time and the stacks", err)
		}
		if took := time.Since(begin); took != stopTimeout {
			t.Errorf("took %v, want %v", took, stopTimeout)
		}
		close(release)
	})
}

// child is a daemon in a process of its own: it prints "up", and on a signal
// ends at once or never, as mode says.
func child(mode string) int {
	return Main(Daemon{Name: "child", Summary: "A daemon of the test.", Run: func(ctx context.Context, _ *slog.Logger) error {
		fmt.Println("up")
		<-ctx.Done()
		if mode == "hang" {
			fmt.Println("hanging")
			select {}
		}
		return nil
	}})
}

func TestSignals(t *testing.T) {
	if mode := os.Getenv(envChild); mode != "" {
		os.Args = os.Args[:1]
		os.Exit(child(mode))
	}
	for _, test := range []struct {
		mode    string
		signals []syscall.Signal
		want    string
	}{
		{"clean", []syscall.Signal{syscall.SIGTERM}, "exit status 0"},
		{"clean", []syscall.Signal{syscall.SIGINT}, "exit status 0"},
		{"hang", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, "signal: terminated"},
		{"hang", []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}, "signal: interrupt"},
	} {
		t.Run(fmt.Sprint(test.mode, test.signals), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			command := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSignals$")
			command.Env = append(os.Environ(), envChild+"="+test.mode)
			stdout, err := command.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			// Each line that the child prints says that it is ready for the next signal.
			lines := bufio.NewScanner(stdout)
			for _, signal := range test.signals {
				if !lines.Scan() {
					t.Fatal("the child ended early")
				}
				if err := command.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = io.Copy(io.Discard, stdout)
			_ = command.Wait() // the state says more
			if got := command.ProcessState.String(); got != test.want {
				t.Errorf("ended with %q, want %q", got, test.want)
			}
		})
	}
}

// TestHelpOrder: flags are shown in the order in which they are declared, a program's
// own first, of the daemon and of its commands.
func TestHelpOrder(t *testing.T) {
	own := func(f *pflag.FlagSet) {
		f.String("zone", "", "where")
		f.String("area", "", "the same for all")
	}
	daemon := Daemon{Name: "testd", Flags: own, Commands: []Command{{Name: "tidy", Flags: own}}}
	for _, test := range []struct{ args, want []string }{
		{[]string{"--help"}, []string{"--zone", "--area", "--log-level", "--version", "--config"}},
		{[]string{"tidy", "--help"}, []string{"--zone", "--area", "--config"}},
	} {
		var stdout, stderr bytes.Buffer
		if code := daemon.main(t.Context(), test.args, &stdout, &stderr); code != 0 {
			t.Errorf("%q: exit status %d, %s", test.args, code, stderr.String())
		}
		at := 0
		for _, flag := range test.want {
			i := strings.Index(stdout.String()[at:], flag)
			if i < 0 {
				t.Errorf("%q: %s is not where it has to be in\n%s", test.args, flag, stdout.String())
				break
			}
			at += i
		}
	}
}

// TestCommands: the first argument may name something else to do than to run.
func TestCommands(t *testing.T) {
	for name, test := range map[string]struct {
		args           []string
		run            error
		code           int
		stdout, stderr string // what they must contain
	}{
		"listed":     {args: []string{"--help"}, stdout: "Commands:\n  testd tidy\n      Tidies.\n"},
		"help":       {args: []string{"tidy", "--help"}, stdout: "Usage:\n  testd tidy [flags]\n\nFlags:\n"},
		"runs":       {args: []string{"tidy", "--room=hall"}, stdout: "tidied hall\n"},
		"wrong flag": {args: []string{"tidy", "--rom=hall"}, code: 2, stderr: "testd tidy: unknown flag: --rom (see testd tidy --help)\n"},
		"not valid":  {args: []string{"tidy"}, code: 2, stderr: "testd tidy: --room is required (see testd tidy --help)\n"},
		"error":      {args: []string{"tidy", "--room=hall"}, run: errors.New("locked"), code: 1, stderr: "testd tidy: locked\n"},
		"not first":  {args: []string{"--log-level=info", "tidy"}, code: 2, stderr: "testd: unexpected argument"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			room := ""
			daemon := Daemon{
				Name: "testd", Summary: "A daemon of the test.",
				Run: func(context.Context, *slog.Logger) error { return errors.New("the daemon ran") },
				Commands: []Command{{
					Name: "tidy", Summary: "Tidies.",
					Flags: func(f *pflag.FlagSet) { f.StringVar(&room, "room", "", "which `room`") },
					Validate: func() error {
						if room == "" {
							return errors.New("--room is required")
						}
						return nil
					},
					Run: func(_ context.Context, stdout io.Writer) error {
						if test.run == nil {
							fmt.Fprintf(stdout, "tidied %s\n", room)
						}
						return test.run
					},
				}},
			}
			code := daemon.main(t.Context(), test.args, &stdout, &stderr)
			if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit status %d, want %d\nstdout:\n%s\nstderr:\n%s", code, test.code, stdout.String(), stderr.String())
			}
		})
	}
}
