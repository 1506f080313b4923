package canary

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// patience is how long something that must happen is waited for.
const patience = time.Minute

func TestMain(m *testing.M) { labtest.Main(m) }

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// eventually asks until there is no error.
func eventually(t *testing.T, got func() error) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		err := got()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// group is that of the processes here, nobody else's. Of a process that may be dumped
// the files in /proc are its own group's, of another one they are root's: see the
// kernel's task_dump_owner.
const group = 65533

// hidden says why a process is not hidden as it should be.
func hidden(pid int) error {
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return err
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 +bytes`).Match(limits) {
		return fmt.Errorf("cores are not limited:\n%s", limits)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return err
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid != 0 {
		return fmt.Errorf("it may be dumped: its files are group %d's", gid)
	}
	return nil
}

// spawn starts a program in the group as a user, and ends it with the test.
func spawn(t *testing.T, user uint32, path string, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	check(t, err)
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: group}}
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s:\n%s", path, text)
		}
		_ = log.Close()
	})
	return cmd
}

// TestMemoryIsHidden: the real programs, as they run, and one that does nothing for it.
func TestMemoryIsHidden(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	binaries := labtest.Binaries(t)
	if err := hidden(spawn(t, 0, "/bin/sleep", "600").Process.Pid); err == nil {
		t.Error("a program that does nothing for it is hidden")
	}

	// As a user who owns nothing, with a path that is longer than a socket's may be.
	base, err := os.MkdirTemp("", "canary")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	data, manifests, program := filepath.Join(base, strings.Repeat("long", 30)), filepath.Join(base, "manifests"), filepath.Join(base, "apiserver")
	text, err := os.ReadFile(filepath.Join(binaries, "clustermesh-apiserver"))
	check(t, err, os.Chmod(base, 0o755), os.Mkdir(data, 0o700), os.Chown(data, group, group), os.Mkdir(manifests, 0o755), os.WriteFile(program, text, 0o755))
	api := spawn(t, group, program, "--cluster-name", "east", "--cluster-id", "1",
		"--data-dir", data, "--manifests-dir", manifests, "--listen", "127.0.0.1:0", "--listen-http", "", "--log-format", "text")
	eventually(t, func() error { return hidden(api.Process.Pid) })
	admin := filepath.Join(data, "admin.yaml")
	eventually(t, func() error { _, err := os.Stat(admin); return err })

	token := filepath.Join(base, "token")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line, err := exec.CommandContext(ctx, filepath.Join(binaries, "causeway"), "agent", "token", "n1", "--address", "127.0.0.1:1", "--admin-file", admin).Output()
	check(t, err, os.WriteFile(token, line, 0o600))
	files := filepath.Join(base, "agent") // an agent that waits for a gateway that is not there
	agent := spawn(t, 0, filepath.Join(binaries, "node-agent"), "--cluster-name", "east", "--node-name", "n1", "--api-server", "127.0.0.1:1",
		"--ca-file", files+".ca", "--cert-file", files+".crt", "--key-file", files+".key", "--join-token-file", token)
	eventually(t, func() error { return hidden(agent.Process.Pid) })
	follow := spawn(t, 0, filepath.Join(binaries, "causeway"), "observe", "--follow", "--admin-file", admin)
	eventually(t, func() error { return hidden(follow.Process.Pid) })
}
