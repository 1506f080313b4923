package kubelab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tailLines is how much of a log an error shows.
const tailLines = 20

// process is one program of a control plane. It may end and be started again;
// its log goes on.
type process struct {
	name string // in messages
	path string
	args []string
	log  string
	// namespaces are the CLONE flags of those that it gets for itself.
	namespaces uintptr

	mu   sync.Mutex
	life *life // the present or the latest; nil before the first
}

// life is one run of a program.
type life struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// program returns a program of the multi-call binary, which does not run yet.
func (p *ControlPlane) program(name string, args ...string) *process {
	return &process{name: name, path: p.binary, args: append([]string{name}, args...), log: p.path(name + ".log")}
}

// start starts the program, which must not run.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life != nil && !isClosed(p.life.ended) {
		return fmt.Errorf("start %s: it runs", p.name)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Dir(p.log), log, log
	// It dies with the thread that started it: with this process, however that ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Cloneflags: p.namespaces}
	l := &life{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(l.ended)
		// The thread has to live as long as the program does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // that it ended is all there is to know
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.life = l
	return nil
}

// await returns once ready does without an error. It fails when the program or
// ctx ends before, with the last error and the end of the log.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	for {
		last := ready(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-ticks.C:
			continue
		case <-p.done():
			last = errors.Join(errors.New("it ended"), last)
		case <-ctx.Done():
			last = errors.Join(ctx.Err(), last)
		}
		return fmt.Errorf("wait until %s is ready: %w; its last words:\n%s", p.name, last, p.tail())
	}
}

// done is closed when the program has ended, or was never started.
func (p *process) done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil {
		never := make(chan struct{})
		close(never)
		return never
	}
	return p.life.ended
}

// kill ends the program and returns when it is gone, also if it does not run.
func (p *process) kill() {
	_ = p.signal(syscall.SIGKILL) // it fails when the program has ended
	<-p.done()
}

// pause freezes the program and returns once it stands still.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for !isClosed(p.done()) {
		state, err := processState(p.pid())
		if err != nil {
			return err
		}
		if state == 'T' {
			return nil
		}
		<-time.After(time.Millisecond)
	}
	return fmt.Errorf("pause %s: it ended", p.name)
}

func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil {
		return fmt.Errorf("send %s to %s: it does not run", sig, p.name)
	}
	if err := p.life.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %s to %s: %w", sig, p.name, err)
	}
	return nil
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life.cmd.Process.Pid
}

// tail returns the last lines of the log.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// processState returns the letter of /proc/<pid>/stat that follows the name,
// which stands in parentheses and may hold any.
func processState(pid int) (byte, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the state of a process: %w", err)
	}
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 || end+2 >= len(stat) {
		return 0, errors.New("the state of a process is not understood")
	}
	return stat[end+2], nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
