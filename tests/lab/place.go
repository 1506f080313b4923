package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// Place is where processes run: a network namespace and a cgroup. Nodes and
// pods are places.
type Place struct {
	lab   *Lab
	name  string
	space *netspace.Space
	group string
}

// newPlace makes the namespace and the cgroup.
func (l *Lab) newPlace(name, group string) (*Place, error) {
	space, err := netspace.New(l.spacePath(fileName(name)))
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	place, err := l.newPlaceIn(space, name, group)
	if err != nil {
		return nil, errors.Join(err, space.Close(), netspace.Remove(space.Path()))
	}
	return place, nil
}

// newPlaceIn makes the cgroup alone, for a place in a namespace that there is.
func (l *Lab) newPlaceIn(space *netspace.Space, name, group string) (*Place, error) {
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, fmt.Errorf("make the cgroup of %s: %w", name, err)
	}
	return &Place{lab: l, name: name, space: space, group: group}, nil
}

// String returns the place's name: cluster/node or cluster/namespace/pod.
func (p *Place) String() string { return p.name }

// Space is the place's network namespace.
func (p *Place) Space() *netspace.Space { return p.space }

// Cgroup is the folder that the place's processes are in.
func (p *Place) Cgroup() string { return p.group }

// Dial connects from the place's namespace. The address is literal: no names
// are resolved. Socket hooks judge by the cgroup of the caller, which is not
// the place's: what has to be translated must be a process, see Start.
func (p *Place) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from %s: want a literal address and port: %w", p.name, err)
	}
	var conn net.Conn
	err := p.space.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", p.name, err)
	}
	return conn, nil
}

// Listen listens in the place's namespace on a literal address and port.
func (p *Place) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("listen in %s: want a literal address and port: %w", p.name, err)
	}
	var listener net.Listener
	err := p.space.Do(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", p.name, err)
	}
	return listener, nil
}

// HTTPClient returns a client whose connections begin in the place, one a
// request.
func (p *Place) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: p.Dial, DisableKeepAlives: true}}
}

// Run runs a program to its end and returns what it wrote to its standard
// output; the error of one that fails holds the end of its standard error. It
// is killed when ctx ends.
func (p *Place) Run(ctx context.Context, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := p.spawn(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.Bytes(), fmt.Errorf("run %s in %s: %w: %s", filepath.Base(path), p.name, err, lastLines(stderr.Bytes(), 5))
	}
	return stdout.Bytes(), nil
}

// Shell returns a line for a person's shell that runs command as if it were a
// process of this place. Nothing is quoted, and it takes root.
func (p *Place) Shell(command ...string) string {
	enter := fmt.Sprintf("echo $$ > %s/cgroup.procs && exec nsenter --net=%s %s",
		p.group, p.space.Path(), strings.Join(command, " "))
	return "sh -c '" + enter + "'"
}

// spawn starts cmd in the place. The child gets a process group of its own, so
// that an interrupt from a terminal reaches only who started the lab.
func (p *Place) spawn(cmd *exec.Cmd) error {
	group, err := os.Open(p.group)
	if err != nil {
		return fmt.Errorf("open the cgroup of %s: %w", p.name, err)
	}
	defer func() { _ = group.Close() }()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Setpgid: true}
	return p.space.Do(cmd.Start)
}
