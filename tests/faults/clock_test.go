package faults

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// clock is that of one process, which it has for itself: see TestClock.
type clock struct {
	memory *os.File
	kernel uint64 // the kernel's function that tells the time
	hook   uint64 // where the process keeps its address
	free   uint64 // room for code
	end    uint64
}

// openClock takes the clock of a process that Go's linker made. Such a process
// asks the kernel's vDSO for the time, by an address in a variable of the runtime;
// the room is a function of the runtime that runs once, at the start.
func openClock(p *lab.Process) (*clock, error) {
	file, err := elf.Open(fmt.Sprintf("/proc/%d/exe", p.PID()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	symbols, err := file.Symbols()
	if err != nil || file.Type != elf.ET_EXEC {
		return nil, errors.Join(err, fmt.Errorf("%s of type %v cannot be given a clock", p.Name(), file.Type))
	}
	c := &clock{}
	for _, s := range symbols {
		switch s.Name {
		case "runtime.vdsoClockgettimeSym":
			c.hook = s.Value
		case "runtime.schedinit":
			c.free, c.end = s.Value, s.Value+s.Size
		}
	}
	if c.memory, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.PID()), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	var address [8]byte
	_, err = c.memory.ReadAt(address[:], int64(c.hook))
	c.kernel = binary.LittleEndian.Uint64(address[:])
	if err == nil && (c.hook == 0 || c.free == 0 || c.kernel == 0) {
		err = fmt.Errorf("%s does not ask the vDSO for the time", p.Name())
	}
	return c, err
}

// jump makes the wall clock differ by so much from the machine's. What has passed
// by timers, the monotonic clock, does not.
func (c *clock) jump(by time.Duration) error {
	code := []byte{
		0x57,                   // push rdi: which clock
		0x56,                   // push rsi: where the time goes
		0x48, 0x83, 0xec, 0x08, // sub rsp, 8
		0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, // mov rax, kernel
		0xff, 0xd0, // call rax
		0x48, 0x83, 0xc4, 0x08, // add rsp, 8
		0x5e,       // pop rsi
		0x5f,       // pop rdi
		0x85, 0xff, // test edi, edi: CLOCK_REALTIME
		0x75, 0x0d, // jne to ret
		0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // mov rcx, seconds
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	}
	binary.LittleEndian.PutUint64(code[8:], c.kernel)
	binary.LittleEndian.PutUint64(code[30:], uint64(by/time.Second))
	if c.free+uint64(len(code)) > c.end {
		return errors.New("too many jumps")
	}
	var address [8]byte
	binary.LittleEndian.PutUint64(address[:], c.free)
	if _, err := c.memory.WriteAt(code, int64(c.free)); err != nil {
		return err
	}
	if _, err := c.memory.WriteAt(address[:], int64(c.hook)); err != nil {
		return err
	}
	c.free += uint64(len(code))
	return nil
}

// TestClock lets the wall clock of east's daemons jump, by some hours and by more
// than any certificate lives, ahead and back. Each daemon is the product's own
// program: what it asks for the time is changed while it runs.
func TestClock(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the code that shifts a clock is amd64's")
	}
	t.Parallel()
	w := newWorld(t, "east", "west")
	w.up()
	w.answers(w.east, w.clusters()...)
	before := w.identities()
	var clocks []*clock
	for _, p := range w.east.Daemons() {
		c, err := openClock(p)
		w.check(err)
		t.Cleanup(func() { _ = c.memory.Close() })
		clocks = append(clocks, c)
	}
	l := w.load()
	for i, by := range []time.Duration{3 * time.Hour, -3 * time.Hour, 40 * 24 * time.Hour} {
		for _, c := range clocks {
			w.check(c.jump(by))
		}
		// New connections, for which certificates are looked at.
		w.check(w.west.APIServer().Restart(within(t)), w.west.AwaitReady(within(t)))
		if by == 3*time.Hour {
			w.ready(w.clusters()...)
			w.knows(w.east, w.service(w.west, 120+i), true)
		} else {
			w.logs(w.east.APIServer(), map[bool]string{true: "begins at", false: "expired"}[by < 0])
		}
		w.shows(w.east.APIServer(), time.Now().Add(by))
		w.answers(w.east, w.clusters()...)
		l.served(100)

		for _, c := range clocks {
			w.check(c.jump(0))
		}
		w.ready(w.clusters()...)
		w.check(w.east.Nodes()[0].Agent().Restart(within(t)))
		clocks = clocks[:1]
		c, err := openClock(w.east.Nodes()[0].Agent())
		w.check(err)
		t.Cleanup(func() { _ = c.memory.Close() })
		clocks = append(clocks, c)
		w.ready(w.clusters()...)
		name := w.service(w.west, 130+i)
		w.knows(w.east, name, true)
		w.check(w.west.APIServer().Restart(within(t)))
		w.ready(w.clusters()...)
	}
	for n, labels := range before {
		if after := w.identities(); after[n] != labels {
			t.Errorf("identity %s was %q and is %q", n, labels, after[n])
		}
	}
	l.unharmed()
}

// shows checks that a process logs a time, to make sure that its clock jumped.
func (w *world) shows(p *lab.Process, when time.Time) {
	w.t.Helper()
	hour := regexp.MustCompile("(?m)^time=(" + when.UTC().Add(-2*time.Minute).Format("2006-01-02T15:04") +
		"|" + when.UTC().Add(-time.Minute).Format("2006-01-02T15:04") + "|" + when.UTC().Format("2006-01-02T15:04") + ")")
	w.eventually("time of "+p.Name(), func(context.Context) error {
		text, err := os.ReadFile(p.LogPath())
		if err == nil && !hour.Match(text) {
			err = fmt.Errorf("no line of its log matches %s", hour)
		}
		return err
	})
}
