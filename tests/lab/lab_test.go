package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestSideBySide has two labs with the same clusters at the same addresses; the
// end of one does not touch the other.
func TestSideBySide(t *testing.T) {
	a := labtest.New(t)
	b := labtest.New(t)
	inA := labtest.AddCluster(t, a, "east", 1, dumps+"east.yaml")
	inB := labtest.AddCluster(t, b, "east", 1, dumps+"east.yaml")
	mustAnswer(t, inA.Pods()[0].Place, inA.Pods()[1], "http", 8080)
	mustAnswer(t, inB.Pods()[0].Place, inB.Pods()[1], "http", 8080)
	_ = labtest.New(t) // sweeps
	mustAnswer(t, inA.Pods()[0].Place, inA.Pods()[1], "http", 8080)
	must(t, a.Close())
	wantGone(t, a.ID(), inA.Pods()[0].Echo.PID())
	mustAnswer(t, inB.Pods()[0].Place, inB.Pods()[1], "http", 8080)
	must(t, a.Close())
	if _, err := a.AddCluster(t.Context(), lab.ClusterSpec{Name: "late"}); err == nil {
		t.Error("a closed lab takes another cluster")
	}
	if err := inA.Pods()[0].Echo.Again(t.Context()); err == nil {
		t.Error("a closed lab starts a process")
	}
}

// TestCrash kills a process that has a lab: the next New takes it down.
func TestCrash(t *testing.T) {
	labtest.RequireRoot(t)
	child, id, pid := startChild(t, "crash")
	if _, err := os.Stat(filepath.Join("/run/causeway-lab", id)); err != nil {
		t.Fatal(err)
	}
	if err := lab.Remove(t.Context(), id); err == nil {
		t.Fatal("the lab of a living process was removed")
	}
	must(t, child.Process.Kill())
	_ = child.Wait()
	_ = labtest.New(t) // or another package's, at the same time
	wantGone(t, id, pid)
}

// TestKeep leaves a lab up on purpose and removes it later.
func TestKeep(t *testing.T) {
	labtest.RequireRoot(t)
	child, id, pid := startChild(t, "keep")
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	_ = labtest.New(t) // sweeps, but not this one
	if !alive(pid) {
		t.Error("a lab that was kept is gone")
	}
	must(t, lab.Remove(t.Context(), id))
	wantGone(t, id, pid)
	if err := lab.Remove(t.Context(), id); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
}

// TestChild is the process that the tests above kill.
func TestChild(t *testing.T) {
	mode := os.Getenv("CAUSEWAY_LAB_CHILD")
	if mode == "" {
		return // nobody's child: nothing to do
	}
	ctx := context.Background()
	l, err := lab.New(ctx, lab.Config{Binaries: labtest.Binaries(t), Log: labtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.AddCluster(ctx, lab.ClusterSpec{Name: "east", ID: 1, Manifests: dumps + "east.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	// File descriptor 3 is the parent's pipe.
	if _, err := fmt.Fprintln(os.NewFile(3, "report"), l.ID(), c.Pods()[0].Echo.PID()); err != nil {
		t.Fatal(err)
	}
	if mode == "keep" {
		must(t, l.Keep(), l.Close()) // Close after Keep does nothing
		os.Exit(0)                   // what runs belongs to nobody now: nothing to look for
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
}

// startChild returns when the child has its lab: with the lab's id and the
// process id of one of its workloads.
func startChild(t *testing.T, mode string) (child *exec.Cmd, id string, pid int) {
	t.Helper()
	read, write, err := os.Pipe()
	must(t, err)
	defer func() { _ = read.Close() }()
	child = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), "CAUSEWAY_LAB_CHILD="+mode)
	child.Stderr = t.Output()
	child.ExtraFiles = []*os.File{write}
	_, err = child.StdinPipe() // stays open: the child waits for its end
	must(t, err, child.Start(), write.Close(), read.SetReadDeadline(time.Now().Add(2*time.Minute)))
	if _, err := fmt.Fscan(read, &id, &pid); err != nil {
		t.Fatalf("the child made no lab: %v", err)
	}
	return child, id, pid
}

// wantGone checks that nothing of a lab is left: processes, cgroups, mounts and
// files.
func wantGone(t *testing.T, id string, pid int) {
	t.Helper()
	if alive(pid) {
		t.Errorf("process %d of lab %s lives", pid, id)
	}
	for _, path := range []string{filepath.Join("/run/causeway-lab", id), filepath.Join(cgroupRoot(t), "causeway-lab-"+id)} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), id) {
		t.Errorf("a mount of lab %s is left (%v)", id, err)
	}
}

// alive takes zombies for dead: who collects an orphan is not the lab's matter.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func cgroupRoot(t *testing.T) string {
	t.Helper()
	root, err := cgroup.Root()
	must(t, err)
	return root
}

func itoa(n int) string { return strconv.Itoa(n) }
