package source

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// child is a source in a process of its own.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startChild(t *testing.T, dir, state string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*timeout) // ends a scan that waits for ever
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childVariable+"="+dir+":"+state)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &child{t: t, cmd: cmd, lines: bufio.NewScanner(out)}
}

// until reads what the child tells up to this line.
func (c *child) until(line string) {
	c.t.Helper()
	for c.lines.Scan() {
		if c.lines.Text() == line {
			return
		}
	}
	c.t.Fatalf("the child never told %q", line)
}

// kill ends the child by SIGKILL.
func (c *child) kill() {
	c.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	_ = c.cmd.Wait() // it was killed
}

// TestManifestsKilled kills a source at the very moment a change is in effect, and
// breaks the file while nobody runs: what was in effect is in effect again.
func TestManifestsKilled(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, "other.yaml", namespace("other")+"---\n"+namespace("gone"))
	write(t, dir, "a.yaml", serviceYAML("first", ""))
	c := startChild(t, dir, state)
	c.until("complete")
	for i := range 3 {
		// Small and large, so that writing it takes its time.
		text := strings.Repeat("# "+strings.Repeat("x", 1000)+"\n", 1+i*500)
		write(t, dir, "a.yaml", text+serviceYAML(fmt.Sprintf("web-%d", i), ""))
		if i == 0 {
			c.until("apply Service default/first") // deletions come first
		} else {
			c.until(fmt.Sprintf("apply Service default/web-%d", i-1))
		}
		c.kill()
		write(t, dir, "a.yaml", "kind: [")
		c = startChild(t, dir, state)
		c.until("complete")
	}
	c.kill()

	write(t, dir, "other.yaml", namespace("other"))
	r := start(t, dir, state)
	r.untilComplete()
	r.untilNames("Namespace other", "Service default/web-2")
	r.untilProblem("a.yaml", "last good content, kept at")
}
