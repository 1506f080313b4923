package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// stopTime is how long a daemon has to end after SIGTERM: what Kubernetes gives a
// pod. With all that it had to say said, it is the kernel's turn to let go of maps
// and programs, which on a machine without time took 5 s.
const stopTime = 30 * time.Second

// startProcess starts an API server or an agent with flags of its own, and does
// not wait for it.
func startProcess(ctx context.Context, c *call) error {
	if list, err := c.named(c.args[0]); err == nil {
		c.markLogs(list)
	}
	name, rest, _ := strings.Cut(c.args[0], "/")
	if rest == "api" {
		cluster, err := c.cluster(name)
		if err != nil {
			return err
		}
		_, err = cluster.StartAPIServer(ctx, c.args[1:]...)
		return err
	}
	node, err := c.node(c.args[0])
	if err != nil {
		return err
	}
	_, err = node.StartAgent(ctx, c.args[1:]...)
	return err
}

// each does verb to the processes that the arguments name, all at once.
func (c *call) each(verb func(*lab.Process) error) error {
	list, err := c.processes(c.args)
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, p := range list {
		g.Go(func() error { return verb(p) })
	}
	return g.Wait()
}

func kill(_ context.Context, c *call) error { return c.each((*lab.Process).Kill) }

func again(ctx context.Context, c *call) error {
	list, err := c.processes(c.args)
	if err != nil {
		return err
	}
	c.markLogs(list)
	return c.each(func(p *lab.Process) error { return p.Again(ctx) })
}

func pause(ctx context.Context, c *call) error {
	return c.each(func(p *lab.Process) error { return p.Pause(ctx) })
}

func resume(_ context.Context, c *call) error { return c.each((*lab.Process).Resume) }

// stop sends SIGTERM: the process must end in time, with exit status 0.
func stop(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	return c.each(func(p *lab.Process) error { return p.Stop(ctx) })
}

// markLogs keeps where the logs end of processes that are about to start anew.
func (w *world) markLogs(list []*lab.Process) {
	for _, p := range list {
		if info, err := os.Stat(p.LogPath()); err == nil {
			w.logged[p.LogPath()] = int(info.Size())
		}
	}
}

// logged waits until a line matches that a process has logged since it was
// started last.
func logged(ctx context.Context, c *call) error {
	list, err := c.processes(c.args[:1])
	if err != nil {
		return err
	}
	return c.matches(ctx, c.args[1:], func() (string, error) {
		text, err := os.ReadFile(list[0].LogPath())
		return string(text[min(len(text), c.logged[list[0].LogPath()]):]), err
	})
}

// matches waits until every pattern is found in what read returns, or, negated,
// none is.
func (c *call) matches(ctx context.Context, patterns []string, read func() (string, error)) error {
	list := make([]*regexp.Regexp, 0, len(patterns))
	for _, p := range patterns {
		re, err := regexp.Compile("(?m)" + p)
		if err != nil {
			return err
		}
		list = append(list, re)
	}
	return eventually(ctx, func() error {
		text, err := read()
		if err != nil {
			return err
		}
		for _, re := range list {
			if re.MatchString(text) == c.negate {
				return fmt.Errorf("found %q: %v; looked at:\n%s", re, c.negate, text)
			}
		}
		return nil
	})
}

// refused runs a second daemon of a cluster, by default with all that the first
// one has, changed by flags. It must end with one line that says why.
func refused(ctx context.Context, c *call) error {
	cluster, err := c.cluster(c.args[1])
	if err != nil {
		return err
	}
	program, flags := "clustermesh-apiserver", apiFlags
	if c.args[0] == "agent" {
		program, flags = "node-agent", c.agentFlags
	}
	args, err := flags(cluster)
	if err != nil {
		return err
	}
	home, err := cluster.Home()
	if err != nil {
		return err
	}
	command := filepath.Join(labtest.Binaries(c.t), program)
	// The shell gives both outputs to the log of this test.
	script := append([]string{"-c", `exec "$@" 2>&1`, "sh", command}, append(args, c.args[3:]...)...)
	out, err := home.Run(ctx, "/bin/sh", script...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() < 1 {
		return fmt.Errorf("%s was not refused: %w\n%s", program, err, out)
	}
	return oneLine(string(out), c.args[2])
}

// oneLine checks that all but what is for information is one line, which
// matches.
func oneLine(text, pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "level=INFO") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 || !re.MatchString(lines[0]) {
		return fmt.Errorf("want one line that matches %q, got:\n%s", re, strings.Join(lines, ""))
	}
	return nil
}

func apiFlags(c *lab.Cluster) ([]string, error) {
	gateway, err := c.Gateway()
	return []string{
		"--cluster-name", c.Name, "--cluster-id", strconv.Itoa(c.ID),
		"--data-dir", c.DataDir(), "--manifests-dir", c.ManifestsDir(), "--peers-dir", c.PeersDir(),
		"--listen", gateway.String(), "--listen-http", "", "--log-format", "text",
	}, err
}

func (w *world) agentFlags(c *lab.Cluster) ([]string, error) {
	home, err := c.Home()
	if err != nil {
		return nil, err
	}
	gateway, err := c.Gateway()
	if err != nil {
		return nil, err
	}
	files, err := w.issue(c, pki.RoleAgent, home.Name, filepath.Join(w.work, "second-agent"), time.Hour)
	return []string{
		"--node-name", home.Name, "--cluster-name", c.Name, "--api-server", gateway.String(),
		"--ca-file", files.CAFile, "--cert-file", files.CertFile, "--key-file", files.KeyFile,
		"--bpffs-dir", home.BPFFS(), "--cgroup-root", home.CgroupRoot(), "--log-format", "text",
	}, err
}
