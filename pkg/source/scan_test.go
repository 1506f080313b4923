package source

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b/x.yaml", "x")
	write(t, dir, "a.json", "a")
	if err := os.Symlink("../..", filepath.Join(dir, "b", "up")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	s := surveyDir(dir)
	var files []string
	for name, st := range s.files {
		files = append(files, name)
		if st.size != 1 {
			t.Errorf("%s: %+v", name, st)
		}
	}
	slices.Sort(files)
	// What lies above is walked through the link too, but no directory twice.
	if diff := cmp.Diff([]string{"a.json", "b/x.yaml"}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if len(s.failed) > 0 || !slices.Contains(s.dirs, "b") || s.root == (place{}) {
		t.Errorf("survey %+v", s)
	}
}

func TestSurveyHidden(t *testing.T) {
	s := survey{failed: map[string]error{"a/b": nil, "x.yaml": nil}}
	for name, want := range map[string]bool{"a/b/c/d.yaml": true, "a/b": true, "a/bc.yaml": false, "a/c.yaml": false, "x.yaml": true} {
		if s.hidden(name) != want {
			t.Errorf("%s: hidden %v, want %v", name, !want, want)
		}
	}
	s.failed["."] = nil
	if !s.hidden("y.yaml") {
		t.Error("all is hidden when the directory is away")
	}
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", "text")
	name := filepath.Join(dir, "a.yaml")
	seen := surveyDir(dir).files["a.yaml"]
	if text, err := readFile(name, seen); err != nil || string(text) != "text" {
		t.Errorf("read: %q, %v", text, err)
	}
	write(t, dir, "a.yaml", "other")
	if _, err := readFile(name, seen); !errors.Is(err, errUnsettled) {
		t.Errorf("read after a change: %v, want %v", err, errUnsettled)
	}
	if _, err := readFile(name, stamp{size: maxFileBytes + 1}); err == nil {
		t.Error("a file of any size is read")
	}
	remove(t, dir, "a.yaml")
	if _, err := readFile(name, seen); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("read what is gone: %v", err)
	}
}

// TestWaitWithoutInotify measures the pauses between looks where nothing can be watched.
func TestWaitWithoutInotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{log: slog.New(slog.DiscardHandler)}
		w.follow([]string{"."})
		for _, tt := range []struct {
			cost    time.Duration
			settled bool
			want    time.Duration
		}{
			{time.Millisecond, true, shortestIdle},
			{20 * time.Millisecond, true, 2 * time.Second},
			{time.Minute, true, longestIdle},
			{time.Millisecond, false, settleTime},
		} {
			began := time.Now()
			if !w.wait(t.Context(), tt.cost, tt.settled) {
				t.Fatal("wait ended")
			}
			if took := time.Since(began); took != tt.want {
				t.Errorf("cost %v, settled %v: waited %v, want %v", tt.cost, tt.settled, took, tt.want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if w.wait(ctx, time.Hour, true) {
			t.Error("wait outlives its context")
		}
	})
}

// TestWatch checks that a change ends the wait at once, also in a directory that
// took another's place.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "sub/a.yaml", "a")
	w := newWatcher(dir, slog.New(slog.DiscardHandler))
	defer w.close()
	woken := func(change func()) {
		t.Helper()
		w.follow(surveyDir(dir).dirs)
		change()
		began := time.Now()
		// The cost asks for the longest pause: only a change can end it sooner.
		if !w.wait(t.Context(), shortestPause, true) || time.Since(began) > 4*time.Second {
			t.Errorf("woken after %v", time.Since(began))
		}
	}
	woken(func() { write(t, dir, "sub/a.yaml", "b") })
	woken(func() {
		if err := os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "old")); err != nil {
			t.Fatal(err)
		}
	})
	woken(func() { write(t, dir, "sub/a.yaml", "c") })
	woken(func() { write(t, dir, "sub/a.yaml", "d") })
	woken(func() { remove(t, dir, "old") })
	w.follow(nil)
	if len(w.watched) > 0 || len(w.inotify.WatchList()) > 0 {
		t.Errorf("still watched: %v, %v", w.watched, w.inotify.WatchList())
	}
}
