package host

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// compareInterval is how often everything is compared whatever was heard.
	compareInterval = 5 * time.Second
	// filterInterval is how often the number is asked for that each change of
	// netfilter makes another: others change it all the time, in many messages,
	// so it is not listened to.
	filterInterval = time.Second
	// settleTime lets changes that belong together arrive together. It doubles
	// with each pass in a row that had to put something back, so that a quarrel
	// with another program is slow.
	settleTime  = 50 * time.Millisecond
	mostDoubled = 4
	// restFactor is how much longer it rests than a pass takes of a CPU: a node with a
	// million routes that change constantly costs 5 % of one.
	restFactor = 20
	// repairsShown is how long a repair is told as a problem, and repairsKept how
	// many at most.
	repairsShown = 10 * time.Minute
	repairsKept  = 20
	// receiveTimeout is how often the listener looks whether it shall end.
	receiveTimeout = 500 * time.Millisecond
)

// repair is something that was put back.
type repair struct {
	at   time.Time
	item Item
}

func (r *repair) problem() Problem {
	return Problem{
		What:  fmt.Sprintf("somebody else changed the %s: it was put back at %s", r.item.Kind, r.at.UTC().Format(time.RFC3339)),
		Where: r.item.Name,
		Do:    "find out which program did it, and have it leave alone what carries our mark",
	}
}

// repaired notes changes that nobody asked for.
func (h *Host) repaired(changes []Item) {
	h.repairCount += len(changes)
	for _, item := range changes {
		h.metrics.repairs.WithLabelValues(string(item.Kind)).Inc()
		h.config.Logger.Warn("put back what somebody else changed", "kind", string(item.Kind), "item", item.Name)
		h.repairs = append(h.repairs, repair{time.Now(), item})
	}
	if extra := len(h.repairs) - repairsKept; extra > 0 {
		h.repairs = append([]repair(nil), h.repairs[extra:]...)
	}
}

// recent returns the repairs that are still worth telling.
func (h *Host) recent() []repair {
	for i, r := range h.repairs {
		if time.Since(r.at) < repairsShown {
			return h.repairs[i:]
		}
	}
	return nil
}

// Run puts back what others change, until ctx is done. It does nothing before the
// first Apply. It runs once. Meanwhile the Holder of this network is this process.
func (h *Host) Run(ctx context.Context) error {
	heard := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.listen(ctx, heard) })
	g.Go(func() error { return h.watch(ctx, heard) })
	g.Go(func() error { h.hold(ctx); return nil })
	return g.Wait()
}

// listen tells of changes by the kernel's own word. What was lost because too
// much came at once is a change as well.
func (h *Host) listen(ctx context.Context, heard chan<- struct{}) error {
	if err := h.kernel.events.SetReceiveTimeout(&unix.Timeval{Usec: receiveTimeout.Microseconds()}); err != nil {
		return fmt.Errorf("listen for network changes: %w", err)
	}
	for ctx.Err() == nil {
		_, _, err := h.kernel.events.Receive()
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return fmt.Errorf("listen for network changes: %w", err)
		}
		select {
		case heard <- struct{}{}:
		default:
		}
	}
	return nil
}

func (h *Host) watch(ctx context.Context, heard <-chan struct{}) error {
	quarrel := 0
	for {
		took, repaired := h.check()
		if quarrel++; !repaired {
			quarrel = 0
		}
		// What is heard meanwhile is heard afterwards.
		if !wait(ctx, max(settleTime<<min(quarrel, mostDoubled), restFactor*took), nil, nil) {
			return nil
		}
		if !wait(ctx, max(compareInterval, restFactor*took), heard, h.stirred) {
			return nil
		}
	}
}

// wait returns after d, when something was heard, or when stirred says so; false
// when ctx is done.
func wait(ctx context.Context, d time.Duration, heard <-chan struct{}, stirred func() bool) bool {
	end, look := time.NewTimer(d), time.NewTicker(filterInterval)
	defer end.Stop()
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case <-heard:
			return true
		case <-look.C:
			if stirred != nil && stirred() {
				return true
			}
		}
	}
}

// stirred reports whether netfilter changed since it was compared.
func (h *Host) stirred() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	generation, err := h.kernel.generation()
	return err == nil && h.applied && len(h.desired.Mesh) > 0 && (h.ruleset == nil || generation != h.generation)
}

// check makes a pass and returns what it took of a CPU, and whether something was
// put back. On a machine without time a pass may be long: that is no reason to leave
// for longer what others change.
func (h *Host) check() (took time.Duration, repaired bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.applied {
		return 0, false
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin, before, repairs := threadTime(), h.settled, h.repairCount
	if err := h.converge(); err != nil && before {
		h.config.Logger.Warn("the node's network could not be put back; it is tried again", "error", err)
	}
	return threadTime() - begin, h.repairCount != repairs
}

// threadTime is what the calling thread has taken of a CPU, in the kernel too.
func threadTime() time.Duration {
	var taken unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &taken); err != nil {
		return 0 // no kernel refuses it
	}
	return time.Duration(taken.Nano())
}
