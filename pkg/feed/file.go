package feed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/merge"
)

// The files in the state folder.
const (
	stateFile  = "feed-state"
	nextSuffix = ".next"
	badSuffix  = ".bad"
	lockFile   = "lock"
)

const (
	// syncInterval is how often the file is brought to the disk at most.
	syncInterval = 5 * time.Second
	// minJournal is how many bytes of changes a file holds at least before it
	// is written anew; a large one holds as many as the state has.
	minJournal = 4 << 20
)

// errClosed is returned for a change that comes when the process ends.
var errClosed = errors.New("the state is closed")

// errLocked is returned for a folder that another process has.
var errLocked = errors.New("another process has the folder: give each agent its own --state-dir")

// OpenState reads the state in the folder. What it cannot use it sets aside
// with a warning, and begins with an empty state.
func OpenState(cfg StateConfig) *State {
	s := &State{cfg: cfg, metrics: newStateMetrics(cfg.Registerer), wake: make(chan struct{}, 1)}
	s.empty()
	if cfg.Dir == "" {
		return s
	}
	if err := s.openDir(); err != nil {
		cfg.Logger.Warn("the state is kept in memory alone: after a restart this node knows nothing before the API server tells it", "dir", cfg.Dir, "error", err)
		s.cfg.Dir = ""
		return s
	}
	s.load()
	return s
}

func (s *State) openDir() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.cfg.Dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the state folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errLocked
		}
		return errors.Join(err, lock.Close())
	}
	s.lock = lock
	return nil
}

func (s *State) path() string { return filepath.Join(s.cfg.Dir, stateFile) }

// load takes the file over, or sets it aside.
func (s *State) load() {
	began := time.Now()
	o, err := s.read(s.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err == nil && o.Cluster != s.cfg.Cluster:
		err = fmt.Errorf("%w: %q", errForeign, o.Cluster)
	case errors.Is(err, errTorn) && s.usable() && o.Boot != s.cfg.Boot && o.Cluster == s.cfg.Cluster:
		// The machine went down while it was written. Nothing in the kernel is
		// newer than what can be read: that went down, too.
		s.cfg.Logger.Info("the last changes before the machine went down did not reach the disk", "file", s.path())
		err = nil
	}
	if err == nil && s.usable() {
		s.cfg.Logger.Info("last state read", "revision", s.revision.N, "views", s.shelves[View].count, "addresses", s.shelves[Address].count,
			"milliseconds", time.Since(began).Milliseconds())
		s.poke() // to be written for this boot
		return
	}
	if err == nil {
		err = errTorn // not one whole state
	}
	s.empty()
	aside := s.path() + badSuffix
	s.cfg.Logger.Warn("the last state on disk cannot be used: set aside, this node waits for the API server", "file", s.path(), "now", aside, "error", err)
	if err := os.Rename(s.path(), aside); err != nil {
		s.fail(fmt.Errorf("set aside: %w", err))
	}
}

func (s *State) usable() bool { return s.revision != Revision{} }

// read takes over what a journal has.
func (s *State) read(path string) (origin, error) {
	in := newIncoming()
	return readJournal(path, func(b *feedpb.Batch) error {
		last, err := in.add(b)
		if err != nil {
			return err
		}
		// Before the first state is complete there is nothing that half of it
		// could spoil; so it is not held twice in memory.
		if last || s.revision == (Revision{}) {
			changes, err := s.difference(in)
			if err != nil {
				return err
			}
			if !last {
				in.revision = Revision{}
			}
			s.take(in.revision, changes)
			in = in.next()
		}
		return nil
	})
}

// ReadDirectory returns who is who from an agent's state folder, which the
// agent may be writing to.
func ReadDirectory(dir string) (*merge.Directory, error) {
	s := &State{metrics: newStateMetrics(nil)}
	path := filepath.Join(dir, stateFile)
	if _, err := s.read(path); err != nil && (!errors.Is(err, errTorn) || !s.usable()) {
		return nil, fmt.Errorf("read the agent's state %s: %w", path, err)
	}
	return s.Directory()
}

// record writes a change to the file. The caller holds s.mu.
func (s *State) record(r Revision, changes []told) {
	if s.cfg.Dir == "" {
		return
	}
	encoded := make([][]byte, len(changes))
	for i, t := range changes {
		encoded[i] = t.encoded
	}
	for _, to := range []**journal{&s.file, &s.next} {
		if *to == nil {
			continue
		}
		if err := (*to).appendAll(r, encoded); err != nil {
			s.fail(errors.Join(err, discard(to)))
		}
	}
	s.poke()
}

// discard gives up a file: one that lacks a change must not be read again.
func discard(which **journal) error {
	j := *which
	*which = nil
	return errors.Join(j.file.Close(), os.Remove(j.path))
}

// fail says once that there is no file, and why.
func (s *State) fail(err error) {
	if s.trouble == nil {
		s.cfg.Logger.Warn("the state is not on disk, trying again: a restart before that needs the API server", "dir", s.cfg.Dir, "error", err)
	}
	s.trouble = err
	s.metrics.failures.Inc()
}

func (s *State) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run keeps the file on the disk until ctx ends, then brings it up to date and
// gives the folder up. It returns nil.
func (s *State) Run(ctx context.Context) error {
	if s.cfg.Dir == "" {
		<-ctx.Done()
		return nil
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for ctx.Err() == nil {
		select {
		case <-s.wake:
			s.settle()
			pause.Reset(syncInterval)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.settle()
	return s.close()
}

func (s *State) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.file.Close() // all of it is on the disk
		s.file = nil
	}
	s.cfg.Dir = ""
	return s.lock.Close()
}

// settle brings the file to the disk, and writes it anew when there is none or
// when it has become long.
func (s *State) settle() {
	s.mu.Lock()
	file := s.file
	long := file == nil || file.size-file.base > max(minJournal, file.base)
	dirty := !long && file.dirty
	if dirty {
		file.dirty = false
	}
	s.mu.Unlock()
	var err error
	switch {
	case long:
		err = s.rewrite()
	case dirty:
		err = file.file.Sync()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && dirty && s.file == file:
		s.fail(errors.Join(err, discard(&s.file)))
	case err != nil:
		s.fail(err)
	case s.trouble != nil && s.file != nil:
		s.trouble = nil
		s.cfg.Logger.Info("the state is on disk again", "dir", s.cfg.Dir)
	}
	if err != nil || s.file == nil && s.usable() {
		s.poke() // and try again
	}
}

// rewrite replaces the file by one with the state as it is. Changes that come
// while it is brought to the disk go into both.
func (s *State) rewrite() error {
	next, err := s.begin()
	if next == nil || err != nil {
		return err
	}
	err = next.file.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != next {
		return s.trouble // with a change that could not be written
	}
	if err == nil {
		err = os.Rename(next.path, s.path())
	}
	if err != nil {
		return errors.Join(err, discard(&s.next))
	}
	next.path = s.path()
	if s.file != nil {
		_ = s.file.file.Close() // it has no name any more
	}
	s.file, s.next = next, nil
	s.metrics.fileBytes.Set(float64(next.size))
	return syncDir(s.cfg.Dir)
}

// begin writes the state to a new file, not to the disk yet; nil when there is
// no state.
func (s *State) begin() (*journal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usable() {
		return nil, nil
	}
	next, err := createJournal(s.path()+nextSuffix, origin{Cluster: s.cfg.Cluster, Boot: s.cfg.Boot})
	if err != nil {
		return nil, err
	}
	if err := s.writeTo(next); err != nil {
		return nil, errors.Join(err, next.file.Close(), os.Remove(next.path))
	}
	next.base = next.size
	next.dirty = false // before it gets its name
	s.next = next
	return next, nil
}

// writeTo writes all resources, a message at a time: a copy of all would be as
// much memory as the state. The caller holds s.mu.
func (s *State) writeTo(j *journal) (err error) {
	batch := &feedpb.Batch{Revision: revisionToProto(s.revision)}
	var text []byte
	for _, k := range allKinds().list() {
		s.shelves[k].all(func(r record) {
			if err == nil && len(text) > 0 && len(text)+len(r.encoded) > batchBytes {
				err = j.append(batch)
				batch.Resources, text = batch.Resources[:0], text[:0]
			}
			begin := len(text)
			text = append(text, r.encoded...)
			batch.Resources = append(batch.Resources, text[begin:])
		})
	}
	if err != nil {
		return err
	}
	batch.Last = true
	return j.append(batch)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
