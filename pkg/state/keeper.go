package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// Pause is how long after a look at what is to be kept the next one is, of which
	// no call waits.
	Pause = time.Second
	// bytesPerSecond bounds what is written when no call waits.
	bytesPerSecond = 64 << 10
	// share is how much longer than a look the pause after it is at least.
	share = 20
	// What cannot be read or written is tried again after firstTry at first, after
	// lastTry in the end.
	firstTry = time.Second
	lastTry  = 30 * time.Second
	// lastTimeout bounds the write at the end of a process.
	lastTimeout = 10 * time.Second
)

// Config is what New needs; all of it.
type Config struct {
	// Dir is the data directory. In its folder "state" the package has files of its own.
	Dir     string
	Cluster string
	ID      uint32
	Slots   Slots
	// Roots are files and folders below Dir. Lazy are those among the files that no
	// call waits for, Essential one of the files without which the directory is taken
	// for empty.
	Roots, Lazy []string
	Essential   string
	// Prefixes are those of keys in etcd.
	Prefixes   []string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Keeper keeps a data directory's state. Restore comes first, then Fill, then Run;
// Flush and Problems may be called at any time by anybody.
type Keeper struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	// These are one goroutine's at a time: Restore's, then Run's, then Last's.
	holder holder
	keys   []key
	done   sums // what is written
	etcd   *kvstore.Client

	wake chan struct{}

	mu      sync.Mutex
	next    *round
	problem error
	since   time.Time // since when something is not written, zero when all is
	written time.Time
}

// round is one look, and a write when there is something new.
type round struct {
	done chan struct{}
	err  error
}

// sums are checksums of a document, of all and of what calls wait for.
type sums struct{ all, awaited string }

// New returns a Keeper that has asked nothing yet.
func New(cfg Config) *Keeper {
	k := &Keeper{
		cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1),
		holder: holder{slots: cfg.Slots, cluster: cfg.Cluster, id: cfg.ID, partSize: partSize},
	}
	k.metrics = newMetrics(cfg.Registerer, k)
	return k
}

// Flush returns when all that was changed before is kept, but for lazy files, or says why
// not.
func (k *Keeper) Flush(ctx context.Context) error {
	k.mu.Lock()
	if k.next == nil {
		k.next = &round{done: make(chan struct{})}
	}
	r := k.next
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("wait until the state is kept: %w", context.Cause(ctx))
	}
}

// Run keeps what there is until ctx ends. It returns an error, ErrTaken or one of its
// like, when it must not go on.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := retry.Backoff{First: firstTry, Limit: lastTry}
	for {
		lazy := false
		select {
		case <-ctx.Done():
			k.answer(context.Cause(ctx))
			return nil
		case <-k.wake:
		case <-timer.C:
			lazy = true
		}
		r, began := k.take(), time.Now()
		size, err := k.round(ctx, lazy)
		if r != nil {
			r.err = err
			close(r.done)
		}
		pause := max(Pause, time.Duration(size)*time.Second/bytesPerSecond, share*time.Since(began))
		switch {
		case refused(err):
			k.note(err)
			k.answer(err)
			return err
		case ctx.Err() != nil:
			continue
		case err != nil:
			pause = again.Next()
			k.note(err)
			k.log.Error("the state is not kept in the Kubernetes API and would be lost with this pod, will retry",
				"secret", k.cfg.Slots.String(), "attempt", again.Attempts(), "delay", pause, "error", err)
		default:
			if again.Attempts() > 0 {
				k.log.Info("the state is kept in the Kubernetes API again", "secret", k.cfg.Slots.String())
			}
			again.Reset()
			k.note(nil)
			if !lazy && size == 0 {
				continue // what is lazy is still to be looked at when it was
			}
		}
		timer.Reset(pause)
	}
}

// refused are the errors that no later try mends.
func refused(err error) bool {
	for _, one := range []error{ErrForeign, ErrNewer, ErrDamaged, ErrTaken} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}

// take returns who waits for the round that begins now, nil for nobody.
func (k *Keeper) take() *round {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.next
	k.next = nil
	return r
}

// answer tells who waits that there is no round any more.
func (k *Keeper) answer(err error) {
	if r := k.take(); r != nil {
		r.err = err
		close(r.done)
	}
}

// round looks, and writes what is new; it returns the size of what it wrote. What is
// lazy alone waits for a lazy round.
func (k *Keeper) round(ctx context.Context, lazy bool) (size int, err error) {
	if k.etcd != nil {
		keys, err := listKeys(ctx, k.etcd, k.cfg.Prefixes)
		if err != nil {
			return 0, err
		}
		k.keys = keys
	}
	return k.writeNew(ctx, lazy)
}

// writeNew is round with the keys of the last look.
func (k *Keeper) writeNew(ctx context.Context, lazy bool) (size int, err error) {
	files, err := collect(k.cfg.Dir, k.cfg.Roots)
	if err != nil {
		return 0, err
	}
	text := document{Files: files, Keys: k.keys}.encode()
	awaited := slices.DeleteFunc(files, func(f file) bool { return slices.Contains(k.cfg.Lazy, f.Path) })
	now := sums{all: checksum(text), awaited: checksum(document{Files: awaited, Keys: k.keys}.encode())}
	if now == k.done || !lazy && now.awaited == k.done.awaited {
		return 0, nil
	}
	k.mu.Lock()
	if k.since.IsZero() {
		k.since = time.Now()
	}
	k.mu.Unlock()
	size, err = k.holder.write(ctx, text)
	k.metrics.count(err)
	if err != nil {
		return 0, err
	}
	k.done = now
	k.metrics.size.Set(float64(size))
	k.mu.Lock()
	k.since, k.written = time.Time{}, time.Now()
	k.mu.Unlock()
	return size, k.writeMark(mark{Writer: k.holder.writer, Generation: k.holder.generation})
}

func (k *Keeper) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.problem = err
}

// Problems says what is not kept, since when, and why.
func (k *Keeper) Problems() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.problem == nil {
		return nil
	}
	last := "never"
	if !k.written.IsZero() {
		last = k.written.UTC().Format(time.RFC3339)
	}
	return []string{fmt.Sprintf("the state is not kept in the Kubernetes API and would be lost with this pod: %v (written last: %s)", k.problem, last)}
}

// waiting returns for how long something has not been written.
func (k *Keeper) waiting() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.since.IsZero() {
		return 0
	}
	return time.Since(k.since)
}

// Last writes what is new when nothing else runs any more. It is no matter if there is
// nothing, or if another one has taken over.
func (k *Keeper) Last(ctx context.Context) {
	if k.holder.writer == "" || k.done == (sums{}) {
		return // it did not begin
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTimeout)
	defer cancel()
	if _, err := k.writeNew(ctx, true); err != nil && !errors.Is(err, ErrTaken) {
		k.log.Error("what changed last is not kept in the Kubernetes API", "secret", k.cfg.Slots.String(), "error", err)
	}
}

func (k *Keeper) own(name string) string { return filepath.Join(k.cfg.Dir, ownDir, name) }
