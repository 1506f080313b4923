package kernels_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/kernels"
)

// patience is for one machine, which is emulated.
const patience = 20 * time.Minute

// TestKernels runs the data plane's tests on each kernel: a machine waits more than it
// computes, so several take little longer than one.
func TestKernels(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated machines: make test-kernels")
	}
	for program, of := range map[string]string{"qemu-system-x86_64": "package qemu-system-x86", "apt-get": "a Debian system"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v (%s)", err, of)
		}
	}
	binaries := build(t)
	for _, k := range kernels.Kernels() {
		t.Run(k.Version, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			image, err := k.Fetch(ctx)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			tests := planned(k.Version)
			root := filepath.Join(t.TempDir(), "root.gz")
			if err := kernels.WriteRoot(ctx, root, image, binaries, tests); err != nil {
				t.Fatal(err)
			}
			log, err := os.Create(filepath.Join(t.ArtifactDir(), "console.log"))
			if err != nil {
				t.Fatal(err)
			}
			results, err := kernels.Boot(ctx, image, root, log)
			if err := log.Close(); err != nil {
				t.Error(err)
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", image.Name, err, tail(log.Name()))
			}
			for _, test := range tests {
				t.Run(test.Package, func(t *testing.T) { judge(t, results[test.Package]) })
			}
		})
	}
}

func judge(t *testing.T, r *kernels.Result) {
	switch {
	case r == nil:
		t.Fatal("was not run")
	case r.Status != 0 || len(r.Failed) > 0:
		t.Fatalf("exit status %d, failed: %s\n%s", r.Status, strings.Join(r.Failed, ", "), r.Output)
	case len(r.Passed) == 0:
		t.Fatalf("no test passed:\n%s", r.Output)
	}
	t.Logf("%d tests passed; without what they need: %s", len(r.Passed), strings.Join(r.Skipped, ", "))
}

func tail(name string) string {
	text, _ := os.ReadFile(name)
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// planned are the tests that a kernel has to pass: what loads, attaches and falls
// back, and what programs do with connections and packets. Machines are slow, so
// tests of what is the same on every kernel are left out.
func planned(version string) []kernels.Test {
	all := []kernels.Test{
		{Package: "pkg/datapath/preflight"},
		{Package: "pkg/datapath", Run: pattern(
			"Probe", "Connect.*", "Refuse.*", "Terminating", "UDP", "Unconnected.*", "Reverse.*", "Getpeername", "EndSockets.*", "Session", "ReadDump",
			"UpdateAll", "MapFull", "Pins.*", "Restart.*", "SecondInstance", "Cgroup.*", "SelfTest.*", "Remove", "WrongFolders",
		)},
		{Package: "pkg/datapath/packet", Run: pattern("Supported")},
	}
	if version == "5.10" {
		return all // no packets between clusters
	}
	all[2].Run = pattern(
		"Supported", "TakesTunnelKey", "World", "Swap", "Refusals", "Metrics", "Events", "PinsRemoved", "Detached", "SelfTest.*", "Shapes.*", "ToMesh", "FromMesh",
		"Size511", "OtherMethod", "OthersFilter", "OthersDiscipline", "Restart", "DeviceMadeAnew", "Chain", "Remove", "Wire", "Outer", "CutHeaders",
	)
	if version == "6.1" {
		return all // the tests of the node's network put programs there by tcx
	}
	return append(all, kernels.Test{Package: "pkg/datapath/host", Run: pattern(
		"Attach", "Mode", "Masquerade", "Native", "NodePort", "ForwardDrop", "Traffic", "OldIPTables", "Remove",
	)})
}

func pattern(names ...string) string { return "^Test(" + strings.Join(names, "|") + ")$" }

// build compiles the binaries that machines run, without libraries.
func build(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	binaries := map[string]string{"init": filepath.Join(dir, "init")}
	compile := func(args ...string) {
		c := exec.CommandContext(t.Context(), "go", args...)
		c.Dir, c.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	compile("build", "-o", binaries["init"], "./tests/kernels/guest")
	for _, test := range planned("6.12") {
		binaries[test.Package] = filepath.Join(dir, strings.ReplaceAll(test.Package, "/", "-"))
		compile("test", "-c", "-ldflags=-s -w", "-o", binaries[test.Package], "./"+test.Package)
	}
	return binaries
}
