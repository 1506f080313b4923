package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func TestMountBPFFS(t *testing.T) {
	sandbox.Require(t)
	m := mountBPFFS{dir: t.TempDir()}
	t.Cleanup(func() {
		if err := unix.Unmount(m.dir, 0); err != nil {
			t.Error(err)
		}
	})
	for _, want := range []string{"mounted one on " + m.dir, "there is one on " + m.dir} {
		var out strings.Builder
		if err := m.command().Run(t.Context(), &out); err != nil || strings.TrimSpace(out.String()) != want {
			t.Errorf("%q, %v: want %q", out.String(), err, want)
		}
	}
}
