package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime returns what a process has used of the processors so far, to the
// nanosecond, threads that ended included.
func cpuTime(pid int) (time.Duration, error) {
	// The clock of a process is its number, inverted, and 2 for the scheduler's
	// own count; see clock_getcpuclockid(3).
	clock := int32(^uint32(pid)<<3 | 2)
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// anonymousMemory returns the bytes that a process holds and no file backs.
func anonymousMemory(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), "RssAnon:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		return kib << 10, err
	}
	return 0, fmt.Errorf("process %d says nothing of its memory", pid)
}

// use is what a process took over some time.
type use struct {
	cpu    time.Duration
	memory int64 // anonymous, at the end
	peak   int64 // anonymous, the most that was seen
}

// meter watches processes by name until stop.
type meter struct {
	pids  map[string]int
	begun map[string]time.Duration
	end   func()

	mu   sync.Mutex
	peak map[string]int64
}

// measureUse begins to watch. A process that ends meanwhile is an error at stop.
func measureUse(ctx context.Context, pids map[string]int) (*meter, error) {
	m := &meter{pids: pids, begun: map[string]time.Duration{}, peak: map[string]int64{}}
	for name, pid := range pids {
		cpu, err := cpuTime(pid)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		m.begun[name] = cpu
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			m.look()
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}()
	m.end = func() {
		cancel()
		<-done
	}
	return m, nil
}

func (m *meter) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, pid := range m.pids {
		if bytes, err := anonymousMemory(pid); err == nil { // stop tells of one that ended
			m.peak[name] = max(m.peak[name], bytes)
		}
	}
}

// stop returns what each process took since measureUse.
func (m *meter) stop() (map[string]use, error) {
	m.end()
	m.look()
	found := map[string]use{}
	for name, pid := range m.pids {
		cpu, err := cpuTime(pid)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		memory, err := anonymousMemory(pid)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		found[name] = use{cpu: cpu - m.begun[name], memory: memory, peak: max(memory, m.peak[name])}
	}
	return found, nil
}
