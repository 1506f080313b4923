// Package labtest makes labs for tests.
package labtest

import (
	"log/slog"
	"os"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// New returns a lab that ends with the test, with the programs of packages
// built, all that a mesh needs when none is named. Without root it skips the
// test, and fails it where CI=true. When the test fails, the ends of all logs
// are shown.
func New(t testing.TB, packages ...string) *lab.Lab {
	t.Helper()
	RequireRoot(t)
	binaries, err := lab.Build(t.Context(), lab.BuildConfig{Packages: packages})
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(t.Context(), lab.Config{Binaries: binaries, Log: Logger(t)})
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
