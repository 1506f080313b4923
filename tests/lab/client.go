package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
)

// Get asks target (host:port) count times, each on a new connection of a
// process in the place, and returns every result, failed ones too. The error is
// about asking itself.
func (p *Place) Get(ctx context.Context, protocol, target string, count int) ([]workload.Result, error) {
	return p.GetAll(ctx, protocol, []string{target}, count)
}

// GetAll is Get for many targets, asked by one process one after the other. The
// first count results are those of the first target, and so on.
func (p *Place) GetAll(ctx context.Context, protocol string, targets []string, count int) ([]workload.Result, error) {
	return p.ask(ctx, count*len(targets), append([]string{"--protocol", protocol, "--count", strconv.Itoa(count)}, targets...))
}

// Exchange asks target and then sends so many bytes, which must come back as
// they are, see workload.Exchange.
func (p *Place) Exchange(ctx context.Context, protocol, target string, bytes int) (workload.Result, error) {
	args := []string{"--protocol", protocol, "--bytes", strconv.Itoa(bytes), "--timeout", exchangeTimeout.String(), target}
	results, err := p.ask(ctx, 1, args)
	if err != nil {
		return workload.Result{}, err
	}
	return results[0], nil
}

// exchangeTimeout bounds one exchange of bytes: a datagram may be lost while the
// path's MTU is found out.
const exchangeTimeout = 5 * time.Second

// ask runs "echo get", which must come to so many results.
func (p *Place) ask(ctx context.Context, want int, args []string) ([]workload.Result, error) {
	output, err := p.Run(ctx, p.lab.binary("echo"), append([]string{"get"}, args...)...)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return nil, err
	}
	var results []workload.Result
	lines := json.NewDecoder(bytes.NewReader(output))
	for {
		var r workload.Result
		if err := lines.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read an answer: %w", err)
		}
		results = append(results, r)
	}
	if len(results) != want {
		return nil, fmt.Errorf("asked %d times and got %d results: %w", want, len(results), err)
	}
	return results, nil
}

// Count returns how many results came from each pod, by Identity.String(), and
// how often each error came, by its text.
func Count(results []workload.Result) (pods, failures map[string]int) {
	pods, failures = map[string]int{}, map[string]int{}
	for _, r := range results {
		if r.Error == "" {
			pods[r.Identity.String()]++
		} else {
			failures[r.Error]++
		}
	}
	return pods, failures
}

// Load is a running load of a place.
type Load struct {
	process *Process
	reports io.ReadCloser

	mu      sync.Mutex
	latest  workload.Report
	changed chan struct{} // closed and replaced with each report
	ended   bool
	err     error
}

// StartLoad begins a load from a process in the place. What is zero in config
// takes the default of echo load, but Rate, Long and Target, which say what
// they say.
func (p *Place) StartLoad(ctx context.Context, config workload.LoadConfig) (*Load, error) {
	read, write := io.Pipe()
	process, err := p.Start(ctx, Command{
		Name: "load-" + config.Target, Path: p.lab.binary("echo"), Args: loadArgs(config), Stdout: write,
	})
	if err != nil {
		return nil, err
	}
	load := &Load{process: process, reports: read, changed: make(chan struct{})}
	go func() {
		<-process.Done()
		_ = write.Close()
	}()
	go load.collect()
	return load, nil
}

func loadArgs(config workload.LoadConfig) []string {
	args := []string{"load", "--rate", strconv.Itoa(config.Rate), "--long", strconv.Itoa(config.Long)}
	if config.Protocol != "" {
		args = append(args, "--protocol", config.Protocol)
	}
	if config.Workers > 0 {
		args = append(args, "--workers", strconv.Itoa(config.Workers))
	}
	durations := []struct {
		flag  string
		value time.Duration
	}{
		{"--long-interval", config.LongInterval},
		{"--timeout", config.Timeout},
		{"--duration", config.Duration},
		{"--interval", config.Interval},
	}
	for _, d := range durations {
		if d.value > 0 {
			args = append(args, d.flag, d.value.String())
		}
	}
	return append(args, config.Target)
}

// collect takes up reports until the process ends.
func (l *Load) collect() {
	lines := bufio.NewScanner(l.reports)
	lines.Buffer(nil, 16<<20)
	var err error
	for err == nil && lines.Scan() {
		var report workload.Report
		if err = json.Unmarshal(lines.Bytes(), &report); err == nil {
			l.publish(func() { l.latest = report })
		}
	}
	err = errors.Join(err, lines.Err())
	_ = l.reports.Close()
	<-l.process.Done()
	l.publish(func() { l.ended, l.err = true, err })
}

func (l *Load) publish(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

// Report returns the latest report.
func (l *Load) Report() workload.Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}

// Await returns the first report, the present one included, for which ok holds.
// It fails when the load or ctx ends before.
func (l *Load) Await(ctx context.Context, ok func(workload.Report) bool) (workload.Report, error) {
	for {
		l.mu.Lock()
		report, changed, ended, err := l.latest, l.changed, l.ended, l.err
		l.mu.Unlock()
		if ok(report) {
			return report, nil
		}
		if ended {
			return report, fmt.Errorf("the load ended: %w; its last words:\n%s", errors.Join(err, errEnded), l.process.Tail())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return report, fmt.Errorf("wait for a report of the load: %w", ctx.Err())
		}
	}
}

// errEnded says that a load is over.
var errEnded = errors.New("no more reports")

// Next returns the second report to come, which was made after the call; the
// first may have been on its way. What two of them differ by was answered
// between the calls, give or take a request that was under way.
func (l *Load) Next(ctx context.Context) (workload.Report, error) {
	report := l.Report()
	for range 2 {
		before := report.Seconds
		var err error
		report, err = l.Await(ctx, func(r workload.Report) bool { return r.Seconds > before })
		if err != nil {
			return report, err
		}
	}
	return report, nil
}

// Stop ends the load and returns its last report; failed requests are in it
// and no error. It may be called after the load ended by itself.
func (l *Load) Stop(ctx context.Context) (workload.Report, error) {
	if err := l.process.signal(syscall.SIGTERM); err != nil {
		return l.Report(), err
	}
	return l.Await(ctx, func(r workload.Report) bool { return r.Last })
}

// Process is the process that makes the load.
func (l *Load) Process() *Process { return l.process }
