package stall

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// By how much more memory a process may take while a stage is held up than under
// the same load before. What piles up as events is several times the first: every
// second changes come to some 5 MiB of objects. The second is what the collector
// makes of it at its worst.
const (
	mostLiveGrowth      = 24 << 20  // bytes of the heap in use, after a collection
	mostAnonymousGrowth = 128 << 10 // KiB
)

// live returns the bytes of a daemon's heap that are in use, false when it does
// not answer because it stands still.
func (d daemon) live(t *testing.T) (bytes int, ok bool) {
	t.Helper()
	client := d.node.HTTPClient()
	client.Timeout = time.Minute
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + d.status + "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, false
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if text, found := strings.CutPrefix(lines.Text(), "# HeapAlloc = "); found {
			n, err := strconv.Atoi(text)
			return n, err == nil
		}
	}
	return 0, false
}

// lives returns what is live in every daemon that runs.
func (w *world) lives(held ...string) map[string]int {
	w.t.Helper()
	out := map[string]int{}
	for name, d := range w.daemons() {
		if slices.Contains(held, name) {
			continue
		}
		n, ok := d.live(w.t)
		if !ok {
			w.t.Errorf("%s does not say how much memory it uses", name)
		}
		out[name] = n
	}
	return out
}

// memory samples the anonymous memory of processes.
type memory struct {
	stop, done chan struct{}

	mu    sync.Mutex
	peaks map[string]int // KiB by name of the process, since the last take
}

// watchMemory samples until the test ends. daemons is asked anew each time:
// a process may be another one.
func watchMemory(t *testing.T, daemons func() map[string]daemon) *memory {
	m := &memory{stop: make(chan struct{}), done: make(chan struct{}), peaks: map[string]int{}}
	go func() {
		defer close(m.done)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			for name, d := range daemons() {
				if kib, err := anonymous(d.pid); err == nil {
					m.mu.Lock()
					m.peaks[name] = max(m.peaks[name], kib)
					m.mu.Unlock()
				}
			}
			select {
			case <-m.stop:
				return
			case <-ticker.C:
			}
		}
	}()
	t.Cleanup(func() {
		close(m.stop)
		<-m.done
	})
	return m
}

// take returns the peaks since it was called last.
func (m *memory) take() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.peaks
	m.peaks = map[string]int{}
	return out
}

// anonymous returns the anonymous memory of a process in KiB.
func anonymous(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if rest, ok := strings.CutPrefix(string(line), "RssAnon:"); ok {
			return strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		}
	}
	return 0, fmt.Errorf("process %d has ended", pid)
}

// childOf returns the process that another one started, 0 for none.
func childOf(parent int) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}
