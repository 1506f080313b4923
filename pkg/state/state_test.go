package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/kube"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to come.
const patience = 60 * time.Second

// shelf are slots in memory, with versions as a Kubernetes API has them.
type shelf struct {
	mu    sync.Mutex
	count int
	slots map[int]slot
	// before is asked before each access: an error is the answer then. after comes
	// after each write, which was done.
	before func(verb string, n int) error
	after  func(n int) error
}

type slot struct {
	values  map[string][]byte
	version string
}

func newShelf() *shelf { return &shelf{slots: map[int]slot{}} }

func (s *shelf) String() string { return "Secret mesh/state" }

func (s *shelf) fails(verb string, n int) error {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(verb, n)
}

func (s *shelf) Read(_ context.Context, n int) (map[string][]byte, string, error) {
	if err := s.fails("read", n); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.slots[n].values), s.slots[n].version, nil
}

func (s *shelf) Write(_ context.Context, n int, version string, values map[string][]byte) (string, error) {
	if err := s.fails("write", n); err != nil {
		return "", err
	}
	s.mu.Lock()
	there := s.slots[n]
	if there.version != version {
		s.mu.Unlock()
		return "", fmt.Errorf("slot %d: %w", n, kube.ErrSlotChanged)
	}
	next := map[string][]byte{}
	maps.Copy(next, there.values)
	for name, value := range values {
		next[name] = bytes.Clone(value)
	}
	s.count++
	written := slot{values: next, version: fmt.Sprint(s.count)}
	s.slots[n] = written
	after := s.after
	s.mu.Unlock()
	if after != nil {
		if err := after(n); err != nil {
			return "", err
		}
	}
	return written.version, nil
}

func (s *shelf) set(before func(verb string, n int) error, after func(n int) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// copied returns what there is now, as a backup has it.
func (s *shelf) copied() map[int]slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.slots)
}

// put replaces all slots; they have versions that nobody has seen.
func (s *shelf) put(slots map[int]slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = map[int]slot{}
	for n, one := range slots {
		s.count++
		s.slots[n] = slot{values: maps.Clone(one.values), version: fmt.Sprint(s.count)}
	}
}

// pod is an API server as far as its state goes.
type pod struct {
	*Keeper
	t   *testing.T
	dir string
	log *bytes.Buffer
}

func newPod(t *testing.T, slots Slots, dir string, change ...func(*Config)) *pod {
	t.Helper()
	var log bytes.Buffer
	cfg := Config{
		Dir: dir, Cluster: "east", ID: 1, Slots: slots,
		Roots: []string{"pki", "joined", "identities"}, Lazy: []string{"identities"}, Essential: "pki/ca.key",
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Registerer: prometheus.NewRegistry(),
	}
	for _, c := range change {
		c(&cfg)
	}
	return &pod{Keeper: New(cfg), t: t, dir: dir, log: &log}
}

// begin restores.
func (p *pod) begin() *pod {
	p.t.Helper()
	if err := p.Restore(p.t.Context(), func(err error) { p.t.Errorf("has to wait: %v", err) }); err != nil {
		p.t.Fatal(err)
	}
	return p
}

// refuses tries to restore and returns why not.
func (p *pod) refuses(want error, texts ...string) {
	p.t.Helper()
	err := p.Restore(p.t.Context(), func(err error) { p.t.Errorf("has to wait: %v", err) })
	if !errors.Is(err, want) {
		p.t.Fatalf("%v, want %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			p.t.Errorf("%q does not say %q", err, text)
		}
	}
}

func (p *pod) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) has(name, want string) {
	p.t.Helper()
	got, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil || string(got) != want {
		p.t.Errorf("%s holds %.60q (%v), want %.60q", name, got, err, want)
	}
}

// keep writes what there is, as a round of Run does.
func (p *pod) keep() error {
	p.t.Helper()
	_, err := p.round(p.t.Context(), true)
	return err
}

func (p *pod) mustKeep() {
	p.t.Helper()
	if err := p.keep(); err != nil {
		p.t.Fatal(err)
	}
}

// noise is text that does not pack.
func noise(size int) string {
	r := rand.NewChaCha8([32]byte{byte(size)})
	text := make([]byte, size)
	_, _ = r.Read(text)
	return string(text)
}

// TestElsewhere: what one pod kept, the next one has.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	one := newPod(t, slots, t.TempDir()).begin()
	one.write("pki/ca.key", "canary-of-the-key")
	one.write("pki/.ca.key.123", "a draft")
	one.write("pki/.lock", "")
	one.write("joined/west", "canary-of-a-peer")
	one.write("joined/.members/west.json", "{}")
	one.write("joined/.west.key.next", "a key")
	one.write("identities", "256 app=web")
	one.write("etcd/member", "not kept")
	one.mustKeep()
	first := slots.copied()
	one.mustKeep()
	if len(slots.copied()) != 1 || slots.copied()[0].version != first[0].version {
		t.Errorf("what is the same was written again")
	}

	two := newPod(t, slots, t.TempDir()).begin()
	for name, want := range map[string]string{
		"pki/ca.key": "canary-of-the-key", "joined/west": "canary-of-a-peer", "joined/.members/west.json": "{}", "joined/.west.key.next": "a key", "identities": "256 app=web",
	} {
		two.has(name, want)
	}
	for _, name := range []string{"pki/.ca.key.123", "pki/.lock", "etcd"} {
		if _, err := os.Stat(filepath.Join(two.dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s was kept: %v", name, err)
		}
	}
	if info, err := os.Stat(filepath.Join(two.dir, "pki/ca.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	if text := two.log.String(); strings.Contains(text, "canary") || !strings.Contains(text, "the state is restored") {
		t.Errorf("log: %s", text)
	}
	// The same pod's container again, with its directory.
	two.write("joined/north", "another")
	two.mustKeep()
	two.write("joined/south", "not written yet")
	again := newPod(t, slots, two.dir).begin()
	again.has("joined/south", "not written yet")
	again.mustKeep()
	newPod(t, slots, t.TempDir()).begin().has("joined/south", "not written yet")
}

// TestTaken: a pod that another one took over from writes nothing any more, and does
// not begin again.
func TestTaken(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	old := newPod(t, slots, t.TempDir()).begin()
	old.write("pki/ca.key", "secret")
	old.mustKeep()
	next := newPod(t, slots, t.TempDir()).begin()
	next.write("joined/west", "new")
	for range 2 {
		old.write("joined/west", "old"+fmt.Sprint(time.Now()))
		if err := old.keep(); !errors.Is(err, ErrTaken) {
			t.Fatalf("the old one keeps: %v", err)
		}
	}
	old.Last(t.Context())
	next.mustKeep()
	old.Last(t.Context())
	newPod(t, slots, old.dir).refuses(ErrTaken, "empty the directory")
	newPod(t, slots, t.TempDir()).begin().has("joined/west", "new")
}

// TestTakenMeanwhile: an old pod writes between the new one's reading and taking over.
func TestTakenMeanwhile(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	old := newPod(t, slots, t.TempDir()).begin()
	old.write("pki/ca.key", "secret")
	old.mustKeep()
	once := sync.OnceFunc(func() {
		old.write("joined/west", "at the last moment")
		old.mustKeep()
	})
	next := newPod(t, slots, t.TempDir())
	slots.set(func(verb string, _ int) error {
		if verb == "write" {
			slots.set(nil, nil)
			once()
		}
		return nil
	}, nil)
	if err := next.Restore(t.Context(), func(error) {}); err != nil {
		t.Fatal(err)
	}
	next.has("joined/west", "at the last moment")
}

// TestOlder: a backup that was put in the place of newer state is not taken, and is
// written over.
func TestOlder(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	one := newPod(t, slots, t.TempDir()).begin()
	one.write("pki/ca.key", "secret")
	one.mustKeep()
	backup := slots.copied()
	two := newPod(t, slots, t.TempDir()).begin()
	two.write("joined/west", "new")
	two.mustKeep()
	slots.put(backup)
	again := newPod(t, slots, two.dir).begin()
	again.has("joined/west", "new")
	again.mustKeep()
	slots.put(backup)
	again.write("joined/west", "newer")
	again.mustKeep() // while it runs
	newPod(t, slots, t.TempDir()).begin().has("joined/west", "newer")
}

// TestRefused: what a Secret may hold that is not to be used.
func TestRefused(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	one := newPod(t, slots, t.TempDir()).begin()
	one.write("pki/ca.key", "secret")
	one.mustKeep()
	good := slots.copied()
	newPod(t, slots, t.TempDir(), func(c *Config) { c.Cluster = "west" }).refuses(ErrForeign, "east with id 1, and this is west with id 1")
	newPod(t, slots, t.TempDir(), func(c *Config) { c.ID = 7 }).refuses(ErrForeign, "this is east with id 7")
	for name, one := range map[string]struct {
		key, text string
		want      error
		says      string
	}{
		"newer":          {headKey, `{"format": 2, "cluster": "east", "id": 1}`, ErrNewer, "in format 2, and this one reads format 1: upgrade"},
		"another part":   {partKey, "x", ErrDamaged, "put a backup of it in its place"},
		"no head":        {headKey, "x", ErrDamaged, "no JSON"},
		"no format":      {headKey, `{}`, ErrDamaged, "makes no sense"},
		"part of nobody": {headKey, `{"format": 1, "parts": [0]}`, ErrDamaged, "names part 0"},
	} {
		bad := map[string][]byte{headKey: good[0].values[headKey], partKey: good[0].values[partKey]}
		bad[one.key] = []byte(one.text)
		slots.put(map[int]slot{0: {values: bad}})
		before := slots.copied()[0].version
		p := newPod(t, slots, t.TempDir())
		p.refuses(one.want, one.says, "Secret mesh/state")
		if _, err := os.Stat(filepath.Join(p.dir, "pki")); !os.IsNotExist(err) || slots.copied()[0].version != before {
			t.Errorf("%s: something was written (%v)", name, err)
		}
	}
}

// TestOutside: a file that is none of ours is not written.
func TestOutside(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"../x", "/etc/x", "other/x", "pki/../../x", "pkix", ""} {
		dir := t.TempDir()
		if err := restore(dir, []string{"pki"}, []file{{Path: path, Mode: 0o600}}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestParts: state that takes several parts is read whole whatever request of a write
// was the last, and what is too large is refused.
func TestParts(t *testing.T) {
	t.Parallel()
	const partSize = 10_000
	slots := newShelf()
	one := newPod(t, slots, t.TempDir()).begin()
	one.holder.partSize = partSize
	one.write("pki/ca.key", "secret")
	broken := errors.New("broken off")
	for generation, size := range []int{2 * partSize, 100, 3 * partSize, 2 * partSize} {
		before, _ := os.ReadFile(filepath.Join(one.dir, "joined/west"))
		text := noise(size + generation)
		one.write("joined/west", text)
		for allowed := 0; ; allowed++ {
			left := allowed
			slots.set(func(verb string, _ int) error {
				if verb == "read" {
					return nil
				}
				if left--; left < 0 {
					return broken
				}
				return nil
			}, nil)
			err := one.keep()
			slots.set(nil, nil)
			// Read by a copy of the slots, so that nobody takes over.
			elsewhere := newShelf()
			elsewhere.put(slots.copied())
			next := newPod(t, elsewhere, t.TempDir()).begin()
			if err == nil {
				next.has("joined/west", text)
				break
			}
			if !errors.Is(err, broken) {
				t.Fatal(err)
			}
			if generation > 0 {
				next.has("joined/west", string(before))
			}
		}
	}
	one.write("joined/west", noise((Count/2+2)*partSize))
	if err := one.keep(); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "have room for 50000") {
		t.Errorf("what is too large: %v", err)
	}
	one.write("joined/west", "small again")
	one.mustKeep()
}

// TestLostAnswer: a write is done whose answer is lost; a person labels the Secret, or
// deletes it.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	one := newPod(t, slots, t.TempDir()).begin()
	one.write("pki/ca.key", "secret")
	lost := errors.New("lost")
	slots.set(nil, func(int) error { return lost })
	if err := one.keep(); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	slots.set(nil, nil)
	// Its process may end before it knows.
	one = newPod(t, slots, one.dir).begin()
	one.mustKeep()
	slots.put(slots.copied())
	one.write("joined/west", "after a label")
	one.mustKeep()
	slots.put(nil)
	one.write("joined/north", "after it was deleted")
	one.mustKeep()
	newPod(t, slots, t.TempDir()).begin().has("joined/north", "after it was deleted")
}

// TestHalf: a directory that was not filled to the end is filled again.
func TestHalf(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	one := newPod(t, slots, t.TempDir()).begin()
	one.write("pki/ca.key", "secret")
	one.write("pki/ca.crt", "certificate")
	one.mustKeep()
	two := newPod(t, slots, t.TempDir()).begin()
	if err := two.writeMark(mark{Writer: two.holder.writer, Generation: 1, Restoring: true}); err != nil {
		t.Fatal(err)
	}
	two.write("pki/ca.key", "half")
	two.write("pki/next/ca.key", "of another time")
	if err := os.Remove(filepath.Join(two.dir, "pki/ca.crt")); err != nil {
		t.Fatal(err)
	}
	again := newPod(t, slots, two.dir).begin()
	again.has("pki/ca.key", "secret")
	again.has("pki/ca.crt", "certificate")
	if _, err := os.Stat(filepath.Join(two.dir, "pki/next")); !os.IsNotExist(err) {
		t.Errorf("what was there is there still: %v", err)
	}
	if err := again.writeMark(mark{Writer: "x", Restoring: true}); err != nil {
		t.Fatal(err)
	}
	slots.put(nil)
	newPod(t, slots, two.dir).refuses(errFiles, "which is gone")
}
