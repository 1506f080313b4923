package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// settleTime is how long a file must look the same before it is read, and be
	// away before it counts as removed: editors and copies write in several steps,
	// some by way of another name.
	settleTime = 150 * time.Millisecond
	// unsettledTime is after how long a file that keeps changing is a problem.
	unsettledTime = 10 * time.Second
	// keepAgain is how long after a content could not be kept that is tried again.
	keepAgain = 2 * time.Second
)

// ManifestsConfig says where manifests are and who receives what is in them.
type ManifestsConfig struct {
	// Dir holds the manifests, sub-folders included.
	Dir string
	// StateDir keeps the last good content of each file. It is created when it
	// is missing and belongs to this source alone.
	StateDir   string
	Sink       Sink
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are kept but not exposed
}

// Manifests is a source that reads a directory of Kubernetes YAML and JSON and
// follows it. What it cannot read or understand is a problem, never a deletion:
// a file's last good content stays in effect until there is a new one or the file
// is gone.
type Manifests struct {
	cfg     ManifestsConfig
	metrics *metrics
	files   map[string]*file
	keep    *keep
	table   *table
	// trusted is the directory in which manifests were seen in this Run.
	trusted  place
	complete bool

	mu       sync.Mutex
	problems []Problem
}

// file is what is known of one file.
type file struct {
	seen      stamp     // by the last survey
	since     time.Time // since when it looks so
	unsettled time.Time // since when it has looked different all the time; zero when it is settled
	taken     stamp     // that was read last
	read      bool      // taken says something
	content   content
	known     bool      // content is a good one, of now or of before
	kept      time.Time // when content was kept, if it is one of before this Run
	recalled  bool      // the kept content was asked for
	lost      bool      // there is a kept content, which cannot be used
	trouble   *trouble  // why taken is not what is in effect
	notKept   error     // why content is not kept
	keepDue   time.Time // when to try that again
}

// trouble is what is wrong with a file; line 0 is the file as a whole.
type trouble struct {
	line    int
	message string
}

// NewManifests returns a source that does nothing until Run.
func NewManifests(cfg ManifestsConfig) *Manifests {
	return &Manifests{
		cfg:     cfg,
		metrics: newMetrics(cfg.Registerer),
		files:   make(map[string]*file),
		table:   newTable(),
	}
}

// Run gives the sink what is in the directory and follows its changes until
// ctx ends; it returns nil then, and the sink's error when that fails, or that the
// state directory cannot be used. It may be called once.
func (m *Manifests) Run(ctx context.Context) error {
	if err := m.open(); err != nil {
		return fmt.Errorf("open %q, where the last good manifests are kept: %w", m.cfg.StateDir, err)
	}
	w := newWatcher(m.cfg.Dir, m.cfg.Logger)
	defer w.close()
	for {
		started := time.Now()
		found := surveyDir(m.cfg.Dir)
		w.follow(found.dirs)
		cost := time.Since(started)
		settled, err := m.look(ctx, found, started)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if !w.wait(ctx, cost, settled) {
			return nil
		}
	}
}

func (m *Manifests) open() error {
	kept, ignored, err := openKeep(m.cfg.StateDir)
	if err != nil {
		return err
	}
	for _, name := range ignored {
		m.cfg.Logger.Warn("kept manifest ignored: it is torn or of another origin", "dir", m.cfg.StateDir, "file", name)
	}
	m.keep = kept
	for name := range kept.sums {
		m.files[name] = &file{since: time.Now()}
	}
	return nil
}

// Problems returns what is wrong at present, sorted by file and line. It may be
// called at any time by any goroutine.
func (m *Manifests) Problems() []Problem {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.problems)
}

// look takes up what a survey found and gives the sink what that changes. It says
// whether all files are settled.
func (m *Manifests) look(ctx context.Context, found *survey, now time.Time) (settled bool, err error) {
	m.judgeEmpty(found)
	m.note(found, now)
	var gone []string
	settled = true
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		f := m.files[name]
		switch {
		case found.hidden(name):
			m.recall(ctx, name, f)
		case now.Sub(f.since) < settleTime:
			settled = false
		case f.seen == stamp{}:
			gone = append(gone, name)
			m.table.replace(name, f.content, nil)
			delete(m.files, name)
		case !f.read || f.taken != f.seen || f.notKept != nil && now.After(f.keepDue):
			if m.takeUp(ctx, name, f, now) {
				settled = false
			}
		default:
			f.unsettled = time.Time{}
		}
	}
	if ctx.Err() != nil { // what was read may be half
		return false, ctx.Err()
	}
	// What is in effect has been kept before, so that no crash takes it back.
	if err := m.keep.sync(); err != nil {
		m.cfg.Logger.Warn("kept manifests cannot be synced", "dir", m.cfg.StateDir, "error", err)
	}
	if err := m.give(ctx); err != nil {
		return false, err
	}
	m.forget(gone)
	m.report(found, now)
	return settled, m.finish(ctx, found, settled)
}

// judgeEmpty takes a directory without any manifest for one that is not mounted,
// if it held some before and is not the very directory in which they were seen.
func (m *Manifests) judgeEmpty(found *survey) {
	if len(found.files) > 0 {
		m.trusted = found.root
	}
	if len(found.files) == 0 && len(found.failed) == 0 && len(m.files) > 0 && m.trusted != found.root {
		found.failed["."] = fmt.Errorf("no manifest is here, but there were %d before: mount the right directory, "+
			"or, if all were meant to go, put in a file none.yaml with nothing but a comment", len(m.files))
	}
}

// note enters what the survey saw, and since when.
func (m *Manifests) note(found *survey, now time.Time) {
	for name := range found.files {
		if m.files[name] == nil {
			m.files[name] = &file{since: now}
		}
	}
	for name, f := range m.files {
		if seen := found.files[name]; seen != f.seen && !found.hidden(name) {
			f.seen, f.since = seen, now
			if f.unsettled.IsZero() {
				f.unsettled = now
			}
		}
	}
}

// takeUp reads a file that has settled. It says whether the file changed
// meanwhile and has to settle again.
func (m *Manifests) takeUp(ctx context.Context, name string, f *file, now time.Time) (again bool) {
	text, err := readFile(filepath.Join(m.cfg.Dir, name), f.seen)
	if errors.Is(err, errUnsettled) {
		f.since = now
		return true
	}
	f.unsettled = time.Time{}
	// What cannot be read is tried at each look: no change of the file may tell
	// that it can be.
	f.read, f.taken = err == nil, f.seen
	if err == nil {
		err = m.use(ctx, name, f, text)
	}
	if err == nil {
		f.trouble, f.kept = nil, time.Time{}
		if f.notKept = m.keep.save(name, text); f.notKept != nil {
			f.keepDue = now.Add(keepAgain)
			m.distrust()
		}
		m.cfg.Logger.Debug("manifest taken up", "file", name, "other_kinds", f.content.ignored())
		return false
	}
	f.trouble = &trouble{message: err.Error()}
	var at *lineError
	if errors.As(err, &at) {
		f.trouble = &trouble{line: at.line, message: at.message}
	}
	m.recall(ctx, name, f)
	return false
}

// use puts a text's objects in the place of what the file held before.
func (m *Manifests) use(ctx context.Context, name string, f *file, text []byte) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("the file is empty: write it to its end, or remove it")
	}
	now, err := parse(ctx, text, f.content)
	if err != nil {
		return err
	}
	m.table.replace(name, f.content, now)
	f.content, f.known = now, true
	return nil
}

// recall puts a file's kept content into effect if there is none yet.
func (m *Manifests) recall(ctx context.Context, name string, f *file) {
	if f.known || f.recalled {
		return
	}
	f.recalled = true
	text, kept, err := m.keep.load(name)
	if err == nil {
		err = m.use(ctx, name, f, text)
	}
	switch {
	case err == nil:
		f.kept = kept
	case !errors.Is(err, errNotKept):
		f.lost = true
		m.cfg.Logger.Warn("kept manifest cannot be used", "file", name, "error", err)
	}
}

// distrust says that something is in effect of which nothing is kept.
func (m *Manifests) distrust() {
	if err := m.keep.setListed(false); err != nil {
		m.cfg.Logger.Warn("kept manifests still say that they are all", "dir", m.cfg.StateDir, "error", err)
	}
}

// accounted reports whether it is known what came from a file: its content is
// there, or it has never had a good one.
func (m *Manifests) accounted(f *file) bool {
	return f.known || (m.keep.listed && !f.lost)
}

// give passes on what has changed.
func (m *Manifests) give(ctx context.Context) error {
	changes := m.table.flush()
	m.metrics.count(m.table.counts)
	if len(changes) == 0 {
		return nil
	}
	m.cfg.Logger.Debug("objects changed", "changes", len(changes))
	if err := m.cfg.Sink.Apply(ctx, changes); err != nil {
		return fmt.Errorf("apply %d changes of manifests: %w", len(changes), err)
	}
	return nil
}

// forget drops what is kept of files whose objects are gone.
func (m *Manifests) forget(gone []string) {
	for _, name := range gone {
		if err := m.keep.remove(name); err != nil {
			m.cfg.Logger.Warn("kept manifest cannot be removed", "file", name, "error", err)
		}
	}
}

// finish tells the sink, once, that everything has been given.
func (m *Manifests) finish(ctx context.Context, found *survey, settled bool) error {
	if m.complete || !settled {
		return nil
	}
	for name := range found.failed {
		if f := m.files[name]; f == nil || !f.known {
			return nil
		}
	}
	for _, f := range m.files {
		if !m.accounted(f) {
			return nil
		}
	}
	m.complete = true
	if !slices.ContainsFunc(slices.Collect(maps.Values(m.files)), func(f *file) bool { return f.notKept != nil }) {
		if err := m.keep.setListed(true); err != nil {
			m.cfg.Logger.Warn("kept manifests do not say that they are all", "dir", m.cfg.StateDir, "error", err)
		}
	}
	m.cfg.Logger.Info("all manifests read", "files", len(m.files), "objects", len(m.table.current))
	if err := m.cfg.Sink.Complete(ctx); err != nil {
		return fmt.Errorf("complete the listing of manifests: %w", err)
	}
	return nil
}
