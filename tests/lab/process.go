package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxPage bounds, in bytes, what is read of one page of a process.
const maxPage = 16 << 20

// tailLines is how much of a log an error shows.
const tailLines = 20

// fetchTimeout bounds one request to a process.
const fetchTimeout = 20 * time.Second

// pollInterval is how often something is asked for that tells nothing by itself.
const pollInterval = 20 * time.Millisecond

// ErrRunning is returned by Again for a process that has not ended.
var ErrRunning = errors.New("still running")

// Command says what to start.
type Command struct {
	// Name names the process in messages and its log file.
	Name string
	Path string
	Args []string
	// Env is added to the environment of the caller.
	Env []string
	// Ready adds "--ready-fd 3"; Start then waits until the program has
	// written a byte there.
	Ready bool
	// Stdout gets the standard output; the log does when nil.
	Stdout io.Writer
}

// Process is a program that was started in a Place. It may end and be started
// again; it outlives the context of its start and ends with the lab.
type Process struct {
	place   *Place
	command Command
	log     string

	mu   sync.Mutex
	life *life // the present or the latest; nil before the first
}

// life is one run of a process, from its start to its end.
type life struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // what Wait returned; read after done only
}

// Start starts a program in the place.
func (p *Place) Start(ctx context.Context, command Command) (*Process, error) {
	logs := filepath.Join(p.lab.state, "log")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of logs: %w", err)
	}
	process := &Process{place: p, command: command, log: filepath.Join(logs, fileName(p.name, command.Name)+".log")}
	if err := process.Again(ctx); err != nil {
		return nil, err
	}
	return process, nil
}

// Name returns the place and the name of the command.
func (p *Process) Name() string { return p.place.name + " " + p.command.Name }

// LogPath is the file that holds the output of all the process' lives.
func (p *Process) LogPath() string { return p.log }

// Again starts the process anew. It returns an error that wraps ErrRunning
// while it runs.
func (p *Process) Again(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life != nil && !isClosed(p.life.done) {
		return fmt.Errorf("start %s: %w", p.Name(), ErrRunning)
	}
	if err := p.start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", p.Name(), err)
	}
	return nil
}

// Become makes the process' next lives run another program, with flags added last:
// an upgrade, for one that was stopped.
func (p *Process) Become(path string, extra ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.command.Path = path
	p.command.Args = append(slices.Clone(p.command.Args), extra...)
}

func (p *Process) start(ctx context.Context) error {
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open its log: %w", err)
	}
	defer func() { _ = output.Close() }()
	cmd := exec.Command(p.command.Path, p.command.Args...)
	cmd.Env = append(os.Environ(), p.command.Env...)
	cmd.Stdout, cmd.Stderr = output, output
	if p.command.Stdout != nil {
		cmd.Stdout = p.command.Stdout
	}
	ready := func(context.Context) error { return nil }
	if p.command.Ready {
		var release func()
		if ready, release, err = awaitByte(cmd); err != nil {
			return err
		}
		defer release()
	}
	if err := p.adopt(cmd); err != nil {
		return err
	}
	if err := ready(ctx); err != nil {
		return errors.Join(err, p.signalLocked(syscall.SIGKILL), fmt.Errorf("its last words:\n%s", p.Tail()))
	}
	return nil
}

// adopt spawns cmd as the process' new life, unless the lab is closed: nothing
// may start after the lab has killed what runs.
func (p *Process) adopt(cmd *exec.Cmd) error {
	l := p.place.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("the lab is closed")
	}
	if err := p.place.spawn(cmd); err != nil {
		return err
	}
	l.processes[p] = struct{}{}
	life := &life{cmd: cmd, done: make(chan struct{})}
	p.life = life
	go func() {
		life.err = cmd.Wait()
		close(life.done)
	}()
	return nil
}

// awaitByte gives cmd one end of a pipe. The function ready returns once the
// program wrote to it; release frees the caller's ends.
func awaitByte(cmd *exec.Cmd) (ready func(context.Context) error, release func(), err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	cmd.ExtraFiles = []*os.File{write}
	cmd.Args = append(cmd.Args, "--ready-fd", "3")
	ready = func(ctx context.Context) error {
		_ = write.Close() // the program's copy is the only one now
		defer context.AfterFunc(ctx, func() { _ = read.SetDeadline(time.Unix(1, 0)) })()
		if _, err := read.Read(make([]byte, 1)); err != nil {
			return errors.Join(fmt.Errorf("wait until it is ready: %w", err), ctx.Err())
		}
		return nil
	}
	return ready, func() { _ = errors.Join(write.Close(), read.Close()) }, nil
}

func (p *Process) latest() *life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life
}

// Done is closed when the present life of the process has ended.
func (p *Process) Done() <-chan struct{} { return p.latest().done }

// Running reports whether the process has not ended.
func (p *Process) Running() bool { return !isClosed(p.Done()) }

// PID is the process id of the present or the latest life.
func (p *Process) PID() int { return p.latest().cmd.Process.Pid }

// Wait returns when the process has ended: nil for exit status 0.
func (p *Process) Wait(ctx context.Context) error {
	life := p.latest()
	select {
	case <-life.done:
		return life.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", p.Name(), ctx.Err())
	}
}

// Kill ends the process by SIGKILL and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.Done()
	return nil
}

// Stop ends the process by SIGTERM. One that does not end with exit status 0
// before ctx does is an error, with the end of its log; it may still run then.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return fmt.Errorf("stop %s: %w; its last words:\n%s", p.Name(), err, p.Tail())
	}
	return nil
}

// Restart stops the process, if it runs, and starts it anew.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return p.Again(ctx)
}

// Pause freezes the process by SIGSTOP and returns once it stands still.
func (p *Process) Pause(ctx context.Context) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		state, err := processState(p.PID())
		if err != nil || state == 'T' {
			return err
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return fmt.Errorf("pause %s: %w", p.Name(), err)
		}
	}
}

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

// signal does nothing to a process that has ended.
func (p *Process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.signalLocked(sig)
}

func (p *Process) signalLocked(sig syscall.Signal) error {
	if err := p.life.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s: %w", sig, p.Name(), err)
	}
	return nil
}

// AwaitHTTP returns once a GET of url, made from the process' place, is
// answered with status 200. It fails when the process or ctx ends before, with
// the last answer and the end of the log.
func (p *Process) AwaitHTTP(ctx context.Context, url string) error {
	client := p.place.HTTPClient()
	for {
		_, last := fetch(ctx, client, url)
		if last == nil {
			return nil
		}
		if life := p.latest(); isClosed(life.done) {
			return fmt.Errorf("%s ended: %w; its last words:\n%s", p.Name(), errors.Join(life.err, last), p.Tail())
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return fmt.Errorf("%s is not ready: %w; its last words:\n%s", p.Name(), errors.Join(last, err), p.Tail())
		}
	}
}

// fetch returns the body of a page; a status other than 200 is an error that
// quotes it.
func fetch(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxPage))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(body[:min(len(body), 4096)]))
	}
	return body, nil
}

// Tail returns the last lines of the log.
func (p *Process) Tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return lastLines(text, tailLines)
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
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
		return 0, fmt.Errorf("process %d has the state %.80q, which is not understood", pid, stat)
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

// sleep waits between two looks at something; it returns ctx's error when that
// ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
