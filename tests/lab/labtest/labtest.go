// Package labtest makes labs for tests.
package labtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// binariesVariable names, in the environment, the folder with the programs that
// labs start. Nothing is built when it is set before Main.
const binariesVariable = "CAUSEWAY_BINARIES"

// Main is the TestMain of a package that uses labs: it builds, once, the
// programs of packages, all that a mesh needs when none is named, runs the
// tests, and looks for goroutines that they leave.
func Main(m *testing.M, packages ...string) {
	if os.Getenv(binariesVariable) == "" && os.Geteuid() == 0 {
		binaries, err := lab.Build(context.Background(), lab.BuildConfig{Packages: packages})
		if err == nil {
			err = os.Setenv(binariesVariable, binaries)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// Binaries is the folder that Main built.
func Binaries(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(binariesVariable)
	if dir == "" {
		t.Fatal("no programs: the package's TestMain must be labtest.Main")
	}
	return dir
}

// Upgrade builds both daemons anew and returns the folder of what is another build
// of them than those in Binaries.
func Upgrade(t testing.TB) string {
	t.Helper()
	dir, err := lab.Build(t.Context(), lab.BuildConfig{
		Packages: []string{"clustermesh-apiserver", "node-agent"}, Output: t.TempDir(), Stripped: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// New returns a lab that ends with the test. Without root it skips the test,
// and fails it where CI=true. When the test fails, the ends of all logs are
// shown.
func New(t testing.TB) *lab.Lab {
	t.Helper()
	RequireRoot(t)
	l, err := lab.New(t.Context(), lab.Config{Binaries: Binaries(t), Log: Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, l)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// AddCluster adds a cluster made of a file or folder of manifests.
func AddCluster(t testing.TB, l *lab.Lab, name string, id int, manifests string) *lab.Cluster {
	t.Helper()
	c, err := l.AddCluster(t.Context(), lab.ClusterSpec{Name: name, ID: id, Manifests: manifests})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// RequireRoot skips the test without root, or fails it where CI=true.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(lab.ErrNotRoot)
	}
	t.Skip(lab.ErrNotRoot)
}

// Logger returns a logger that writes to the test's output.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func showLogs(t testing.TB, l *lab.Lab) {
	for _, p := range l.Processes() {
		state := "ended"
		if p.Running() {
			state = "running"
		}
		t.Logf("%s (%s):\n%s", p.Name(), state, p.Tail())
	}
}
