package lab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestProcess goes through the life of a workload: killed, started again,
// paused, restarted.
func TestProcess(t *testing.T) {
	ctx := t.Context()
	l := labtest.New(t)
	c := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	to, from := c.Pods()[0], c.Pods()[1]
	target := to.IPs[0].String() + ":8080"
	echo := to.Echo

	if err := echo.Again(ctx); !errors.Is(err, lab.ErrRunning) {
		t.Errorf("started twice: %v", err)
	}
	group, err := os.ReadFile(filepath.Join("/proc", itoa(echo.PID()), "cgroup"))
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(group)), strings.TrimPrefix(to.Cgroup(), cgroupRoot(t))) {
		t.Errorf("the workload's cgroup is %q (%v), want %q", group, err, to.Cgroup())
	}
	first := echo.PID()
	must(t, echo.Kill())
	if echo.Running() {
		t.Error("runs after Kill")
	}
	var status *exec.ExitError
	if err := echo.Wait(ctx); !errors.As(err, &status) || status.ExitCode() != -1 {
		t.Errorf("killed process ended with %v", err)
	}
	wantAnswers(t, from, target, false)
	must(t, echo.Again(ctx))
	if echo.PID() == first {
		t.Error("the same process id")
	}
	wantAnswers(t, from, target, true)

	must(t, echo.Pause(ctx))
	wantAnswers(t, from, target, false)
	must(t, echo.Resume())
	wantAnswers(t, from, target, true)

	second := echo.PID()
	must(t, echo.Restart(ctx))
	if echo.PID() == second {
		t.Error("restarted and the same process id")
	}
	wantAnswers(t, from, target, true)
	must(t, echo.Stop(ctx), echo.Stop(ctx))
	if n := strings.Count(echo.Tail(), "serving"); n != 3 {
		t.Errorf("the log tells of %d lives, want 3:\n%s", n, echo.Tail())
	}

	upgrade := filepath.Join(t.TempDir(), "echo")
	must(t, os.Symlink(filepath.Join(labtest.Binaries(t), "echo"), upgrade))
	echo.Become(upgrade, "--tcp", "18080")
	must(t, echo.Again(ctx))
	if line, err := os.ReadFile(filepath.Join("/proc", itoa(echo.PID()), "cmdline")); err != nil || !strings.HasPrefix(string(line), upgrade+"\x00") {
		t.Errorf("%q runs (%v), want %s", line, err, upgrade)
	}
	wantAnswers(t, from, target, true)
	wantAnswers(t, from, to.IPs[0].String()+":18080", true)
}

func wantAnswers(t *testing.T, from *lab.Pod, target string, want bool) {
	t.Helper()
	timeout := "1m"
	if !want { // silence can only be waited for
		timeout = "300ms"
	}
	output, err := from.Run(t.Context(), filepath.Join(labtest.Binaries(t), "echo"), "get", "--timeout", timeout, target)
	if want != (err == nil) {
		t.Errorf("want an answer %v, got %s, %v", want, output, err)
	}
}

// TestStartFails shows what a program says that can not run.
func TestStartFails(t *testing.T) {
	ctx := t.Context()
	l := labtest.New(t)
	c := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	p := c.Pods()[0]

	_, err := p.Start(ctx, lab.Command{Name: "absent", Path: "/nowhere/program"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
	// The port is taken by the workload.
	_, err = p.Start(ctx, lab.Command{
		Name: "second", Path: filepath.Join(labtest.Binaries(t), "echo"), Args: []string{"serve", "--tcp", "8080"}, Ready: true,
	})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a program that ends before it is ready: %v", err)
	}
	sleeper, err := p.Start(ctx, lab.Command{Name: "sleeper", Path: "/bin/sleep", Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := sleeper.AwaitHTTP(short, "http://127.0.0.1:1/"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("not ready in time: %v", err)
	}
	if err := sleeper.Stop(ctx); err == nil {
		t.Error("a program that ends by a signal counts as a clean end")
	}
	if err := sleeper.AwaitHTTP(ctx, "http://127.0.0.1:1/"); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("ended: %v", err)
	}
	if err := p.Echo.AwaitHTTP(ctx, "http://127.0.0.1:8080/"); err != nil {
		t.Errorf("one that serves: %v", err)
	}
}

// TestShell runs the line that is printed for people.
func TestShell(t *testing.T) {
	l := labtest.New(t)
	c := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	from, to := c.Pods()[0], c.Pods()[1]
	line := from.Shell(filepath.Join(labtest.Binaries(t), "echo"), "get", to.IPs[0].String()+":8080")
	output, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", line).CombinedOutput()
	if err != nil || !bytes.Contains(output, []byte(`"remote":"`+from.IPs[0].String())) {
		t.Errorf("%s: %v\n%s", line, err, output)
	}
}

// TestLoad watches a load while its target is away for a moment.
func TestLoad(t *testing.T) {
	ctx := t.Context()
	l := labtest.New(t)
	c := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	to, from := c.Pods()[0], c.Pods()[1]
	load, err := from.StartLoad(ctx, workload.LoadConfig{
		Target: to.IPs[0].String() + ":8080", Rate: 100, Long: 5, LongInterval: 20 * time.Millisecond,
		Interval: 20 * time.Millisecond, Timeout: 20 * time.Second, Workers: 4, Duration: time.Minute, Protocol: workload.TCP,
	})
	must(t, err)
	before, err := load.Next(ctx)
	must(t, err)
	after, err := load.Await(ctx, func(r workload.Report) bool { return r.New.OK > before.New.OK+10 && r.Long.OK > before.Long.OK+10 })
	must(t, err)
	if after.New.Failed+after.Long.Failed > 0 {
		t.Errorf("failures with all well: %+v", after)
	}
	if got := after.Since(before).New.Pods["east/"+to.Namespace+"/"+to.Name]; got <= 10 {
		t.Errorf("%d answers of the only pod", got)
	}
	must(t, to.Echo.Kill())
	_, err = load.Await(ctx, func(r workload.Report) bool { return r.New.Failed > 0 && r.Long.Failed > 0 })
	must(t, err)
	must(t, to.Echo.Again(ctx))
	back, err := load.Next(ctx)
	must(t, err)
	_, err = load.Await(ctx, func(r workload.Report) bool { return r.New.OK > back.New.OK && r.Long.OK > back.Long.OK })
	must(t, err)
	last, err := load.Stop(ctx)
	must(t, err)
	if !last.Last || last.New.MaxGapMillis <= 0 || last.Long.MaxGapMillis <= 0 || len(last.New.Errors) == 0 {
		t.Errorf("last report %+v", last)
	}
	if again, err := load.Stop(ctx); err != nil || !again.Last {
		t.Errorf("stopped twice: %+v, %v", again, err)
	}
	if _, err := load.Next(ctx); err == nil {
		t.Error("an ended load gives another report")
	}
}
