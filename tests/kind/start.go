package kind

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/deploy/oci"
)

// EchoImage is the workload: tests/echo, which nodes have from the start.
const EchoImage = "causeway-test/echo:1"

const echoArchive = "echo.tar" // in the bed's folder

// Start returns a bed with both clusters up, which ends with the test: unless
// KEEP=1, which leaves it up and takes it up again. Where no bed can run the
// test is skipped and says why; with CI=true it fails.
func Start(t testing.TB) *Bed {
	t.Helper()
	require(t)
	ctx := t.Context()
	parts, err := Build(ctx, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	keep := os.Getenv("KEEP") != ""
	if b := keptBed(ctx, parts); keep && b != nil {
		b.showFailure(t)
		if err := b.loadEcho(ctx); err != nil { // it may have changed
			t.Fatal(err)
		}
		return b
	}
	b, err := newBed(ctx, parts, keep)
	t.Cleanup(func() {
		if keep && b != nil {
			t.Logf("the clusters stay up:\n  nsenter --net=/proc/%d/ns/net env KUBECONFIG=%s %s kubectl --context kind-east get pods -A\nkill -9 %d ends them; the next test cleans up",
				b.pid, b.Kubeconfig(), parts.Kubernetes, b.pid)
			return
		}
		if b != nil {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b.showFailure(t)
	begun := time.Now()
	if err = b.createClusters(ctx); err == nil {
		t.Logf("both clusters are up after %s", time.Since(begun).Round(time.Second))
		err = b.loadEcho(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// showFailure collects what a person needs when the test fails.
func (b *Bed) showFailure(t testing.TB) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if err := b.Collect(ctx); err != nil {
			t.Logf("collect logs: %v", err)
		}
		t.Logf("logs are in %s", b.out)
	})
}

// require skips the test where no bed can run.
func require(t testing.TB) {
	t.Helper()
	reason := ""
	missing := slices.DeleteFunc([]string{"dockerd", "docker", "debootstrap", "jq", "containerd", "runc", "nsenter", "ip", "iptables", "cc"}, func(name string) bool {
		_, err := exec.LookPath(name)
		return err == nil
	})
	switch {
	case testing.Short():
		reason = "minutes: not with -short"
	case os.Geteuid() != 0:
		reason = "clusters of kind make namespaces, cgroups and mounts: run it as root"
	case len(missing) > 0:
		reason = "clusters of kind need " + strings.Join(missing, ", ") + ": make test-kind INSTALL=1 installs the packages"
	}
	switch {
	case reason == "":
	case os.Getenv("CI") == "true":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

// loadEcho builds the workload and gives it to all nodes.
func (b *Bed) loadEcho(ctx context.Context) error {
	programs := b.path("programs")
	if err := goBuild(ctx, programs, "./tests/echo"); err != nil {
		return err
	}
	archive, err := os.Create(b.path(echoArchive))
	if err != nil {
		return err
	}
	image := oci.Image{Name: EchoImage, Program: filepath.Join(programs, "echo"), Architecture: "amd64"}
	if err := oci.Write(archive, []oci.Image{image}); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return b.LoadImage(ctx, archive.Name())
}

// goBuild builds static programs of the repository into a folder.
func goBuild(ctx context.Context, into string, packages ...string) error {
	root, err := repository()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", into + "/"}, packages...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w:\n%s", err, text)
	}
	return nil
}
