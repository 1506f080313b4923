package source

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// shortestPause lies between two looks whatever happens, so that a directory
	// in which something writes all the time costs little.
	shortestPause = 50 * time.Millisecond
	// A look without a reason comes after so many times its own cost, in these
	// bounds: up to some thousand files that is soon enough without inotify, which
	// sees no change on a network file system or behind a symbolic link.
	idleFactor   = 100
	shortestIdle = 300 * time.Millisecond
	longestIdle  = 5 * time.Second
	// busyFactor keeps looks for a reason to a tenth of a core.
	busyFactor = 10
)

// watcher says when to look at a directory again. inotify only makes that
// prompt; what there is to see, the look finds out. It is owned by one goroutine.
type watcher struct {
	root    string
	log     *slog.Logger
	inotify *fsnotify.Watcher // nil: not available
	watched map[string]bool
	refused bool // told that directories are not watched
}

func newWatcher(root string, log *slog.Logger) *watcher {
	w := &watcher{root: root, log: log, watched: make(map[string]bool)}
	inotify, err := fsnotify.NewWatcher()
	if err != nil {
		w.refuse(err)
		return w
	}
	w.inotify = inotify
	return w
}

func (w *watcher) refuse(err error) {
	if !w.refused {
		w.refused = true
		w.log.Warn("directory is looked at from time to time, since it cannot be watched: raise fs.inotify.max_user_instances and max_user_watches",
			"dir", w.root, "error", err)
	}
}

func (w *watcher) close() {
	if w.inotify != nil {
		// Its descriptors are closed in any case, and nobody could act on an error.
		_ = w.inotify.Close()
	}
}

// follow watches these directories, relative to the root, and no others.
func (w *watcher) follow(dirs []string) {
	if w.inotify == nil {
		return
	}
	var failure error
	wanted := make(map[string]bool, len(dirs))
	for _, dir := range dirs {
		name := filepath.Join(w.root, dir)
		// Again each time: another directory may have come to stand there.
		if err := w.inotify.Add(name); err != nil {
			failure = err
			continue
		}
		wanted[name] = true
	}
	for _, name := range slices.Collect(maps.Keys(w.watched)) {
		if !wanted[name] {
			// It fails for one that is gone, which is then not watched either.
			_ = w.inotify.Remove(name)
		}
	}
	w.watched = wanted
	if failure != nil {
		w.refuse(failure)
	} else {
		w.refused = false
	}
}

// wait returns when it is time for the next look, false when ctx ended. The cost
// is that of the last look; if that found files that have to settle, the next
// comes when they may have.
func (w *watcher) wait(ctx context.Context, cost time.Duration, settled bool) bool {
	idle := min(max(idleFactor*cost, shortestIdle), longestIdle)
	if !settled {
		idle = settleTime
	}
	pause := min(max(busyFactor*cost, shortestPause), longestIdle)
	if !sleep(ctx, pause) {
		return false
	}
	timer := time.NewTimer(max(idle-pause, 0))
	defer timer.Stop()
	events, errs := w.channels()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-events:
	case err := <-errs:
		w.log.Debug("events of a directory were lost", "dir", w.root, "error", err)
	}
	for {
		select {
		case <-events:
		case err := <-errs:
			w.log.Debug("events of a directory were lost", "dir", w.root, "error", err)
		default:
			return true
		}
	}
}

func (w *watcher) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.inotify == nil {
		return nil, nil
	}
	return w.inotify.Events, w.inotify.Errors
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
