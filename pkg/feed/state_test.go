package feed

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// kept is a State over a folder, and what it logs.
type kept struct {
	*State
	log *lockedBuffer
}

func openState(dir, boot string) kept {
	log := &lockedBuffer{}
	return kept{OpenState(StateConfig{
		Dir: dir, Cluster: "east", Boot: boot, Logger: slog.New(slog.NewTextHandler(log, nil)),
	}), log}
}

// end runs the state to the end of its process.
func (k kept) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// die ends it as SIGKILL does: what was written is in the file.
func (k kept) die(t *testing.T) {
	t.Helper()
	if k.file != nil {
		k.file.file.Close()
	}
	k.lock.Close()
}

// tell makes d a change of the state, as from a server of one epoch.
func (k kept) tell(t *testing.T, n uint64, d merge.Delta, replaced ...*feedpb.Replaced) []told {
	t.Helper()
	in := newIncoming()
	b := &feedpb.Batch{Revision: &feedpb.Revision{Epoch: "e", N: n}, Last: true, Replaced: replaced}
	for _, c := range newServer().encode(d) {
		b.Resources = append(b.Resources, c.encoded)
	}
	if _, err := in.add(b); err != nil {
		t.Fatal(err)
	}
	changes, err := k.accept(in)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

func (k kept) expect(t *testing.T, n uint64, want service.Delta) {
	t.Helper()
	b, ok, err := k.whole()
	if err != nil || !ok {
		t.Fatalf("whole = %v, %v; log:\n%s", ok, err, k.log)
	}
	all := newDelta()
	put(all.Views, want.Views)
	put(all.Slices, want.Slices)
	if diff := cmp.Diff(all, b.Delta, byAddr); diff != "" || b.Revision != (Revision{"e", n}) || !b.Snapshot {
		t.Errorf("revision %+v (-want +got):\n%s", b.Revision, diff)
	}
}

func services(ds ...service.Delta) merge.Delta {
	all := newDelta()
	for _, d := range ds {
		for k, v := range d.Views {
			all.Views[k] = v
		}
		for k, v := range d.Slices {
			all.Slices[k] = v
		}
	}
	return merge.Delta{Services: all}
}

func TestStateOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	web, api := viewsOf(view("web", "east")), slicesOf(slice("api", 0, "10.1.0.1"))
	k := openState(dir, "boot")
	if _, ok, _ := k.whole(); ok {
		t.Error("a new state is whole")
	}
	k.tell(t, 1, everything())
	k.tell(t, 2, services(web, api))
	k.end(t)

	k = openState(dir, "boot")
	all := everything()
	want := services(all.Services, web, api).Services
	k.expect(t, 2, want)
	who, err := k.Directory()
	if err != nil {
		t.Fatal(err)
	}
	if owner := who.Addresses[netip.MustParsePrefix("10.1.0.1/32")]; owner == nil || owner.Pod != "web-0" || len(who.Nodes) != 1 || len(who.Identities) != 1 {
		t.Errorf("directory: %+v", who)
	}
	read, err := ReadDirectory(dir)
	if diff := cmp.Diff(who, read, byAddr, byPrefix); diff != "" || err != nil {
		t.Errorf("read while an agent has it: %v (-want +got):\n%s", err, diff)
	}

	// From now on each change is in the file at once, whatever becomes of us.
	k.settle()
	gone := service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{slice("api", 0).BackendSliceKey: nil}}
	k.tell(t, 3, services(gone))
	k.tell(t, 4, services())
	k.die(t)
	k = openState(dir, "boot")
	delete(want.Slices, slice("api", 0).BackendSliceKey)
	k.expect(t, 4, want)
	k.end(t)
	if text := k.log.String(); strings.Contains(text, "WARN") {
		t.Errorf("log:\n%s", text)
	}
}

func TestChangesAreWhatDiffers(t *testing.T) {
	k := openState("", "")
	web, api := slicesOf(slice("web", 0, "10.1.0.1")), slicesOf(slice("api", 0, "10.1.0.1"))
	if got := k.tell(t, 1, services(web, api)); len(got) != 2 {
		t.Errorf("%d changes, want 2", len(got))
	}
	if got := k.tell(t, 2, services(web)); len(got) != 0 {
		t.Errorf("what is known already: %+v", got)
	}
	bucket := func(d service.Delta) uint32 {
		for name := range d.Slices {
			return uint32(bucketOf(sliceKey(name).text))
		}
		return 0
	}
	got := k.tell(t, 3, services(web), &feedpb.Replaced{Kind: feedpb.Kind_SLICE, Numbers: []uint32{bucket(web), bucket(api)}})
	if len(got) != 1 || got[0].value != nil || got[0].name != slice("api", 0).BackendSliceKey {
		t.Errorf("what a replaced bucket lacks: %+v", got)
	}
	if got := k.tell(t, 4, services(), &feedpb.Replaced{Kind: feedpb.Kind_SLICE, All: true}); len(got) != 1 {
		t.Errorf("what a replaced kind lacks: %+v", got)
	}
	k.expect(t, 4, service.Delta{})
	for _, bad := range []*feedpb.Replaced{{Kind: 99}, {Kind: feedpb.Kind_SLICE, Numbers: []uint32{bucketCount}}} {
		in := newIncoming()
		in.replaced = []*feedpb.Replaced{bad}
		if _, err := k.accept(in); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

// A file that cannot be used is set aside, says why, and stands in nobody's way.
func TestFilesThatCannotBeUsed(t *testing.T) {
	web := services(viewsOf(view("web", "east")))
	for name, c := range map[string]struct {
		spoil func([]byte) []byte
		boot  string
		want  string
	}{
		"torn":            {func(b []byte) []byte { return b[:len(b)-3] }, "boot", errTorn.Error()},
		"torn inside":     {func(b []byte) []byte { return b[:len(b)/2] }, "another", errTorn.Error()},
		"changed":         {func(b []byte) []byte { b[len(b)-30] ^= 1; return b }, "boot", errTorn.Error()},
		"its length":      {func(b []byte) []byte { b[bytes.Index(b, []byte("}\n"))+2] = 0xff; return b }, "boot", errTorn.Error()},
		"no state in it":  {func(b []byte) []byte { return b[:bytes.Index(b, []byte("}\n"))+2] }, "boot", errTorn.Error()},
		"empty":           {func([]byte) []byte { return nil }, "boot", errFormat.Error()},
		"another version": {func(b []byte) []byte { return bytes.Replace(b, []byte("state 1"), []byte("state 2"), 1) }, "boot", errFormat.Error()},
		"something else":  {func([]byte) []byte { return []byte("\x7fELF") }, "boot", errFormat.Error()},
		"not whose":       {func(b []byte) []byte { return bytes.Replace(b, []byte("{"), []byte("["), 1) }, "boot", errTorn.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			k := openState(dir, "boot")
			k.tell(t, 1, web)
			k.end(t)
			spoil(t, dir, c.spoil)
			wantSetAside(t, openState(dir, c.boot), dir, c.want)
		})
	}
	t.Run("another cluster's", func(t *testing.T) {
		dir := t.TempDir()
		west := OpenState(StateConfig{Dir: dir, Cluster: "west", Logger: quiet})
		k := kept{State: west}
		k.tell(t, 1, web)
		k.end(t)
		wantSetAside(t, openState(dir, "boot"), dir, `another cluster's: \"west\"`)
	})
}

func spoil(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantSetAside(t *testing.T, k kept, dir, reason string) {
	t.Helper()
	if _, ok, _ := k.whole(); ok {
		t.Error("it is used")
	}
	if text := k.log.String(); !strings.Contains(text, "set aside") || !strings.Contains(text, reason) {
		t.Errorf("log has no %q:\n%s", reason, text)
	}
	if _, err := os.Stat(filepath.Join(dir, stateFile+badSuffix)); err != nil {
		t.Error(err)
	}
	k.tell(t, 9, services(viewsOf(view("api", "east"))))
	k.end(t)
	k = openState(dir, "boot")
	k.expect(t, 9, viewsOf(view("api", "east")))
	k.end(t)
}

// After the machine went down, what did not reach the disk is missing, and so is
// what the kernel had: the rest is used.
func TestTornByTheEndOfTheMachine(t *testing.T) {
	dir := t.TempDir()
	k := openState(dir, "boot")
	k.tell(t, 1, services(viewsOf(view("web", "east"))))
	k.settle()
	k.tell(t, 2, services(viewsOf(view("api", "east"))))
	k.end(t)
	spoil(t, dir, func(b []byte) []byte { return append(b[:len(b)-5], 0, 0, 0, 0, 0, 0, 0) })
	k = openState(dir, "another boot")
	k.expect(t, 1, viewsOf(view("web", "east")))
	if text := k.log.String(); strings.Contains(text, "WARN") {
		t.Errorf("log:\n%s", text)
	}
	k.end(t)
	k = openState(dir, "another boot")
	k.expect(t, 1, viewsOf(view("web", "east")))
	k.end(t)
}

// A long file is written anew, and changes that come meanwhile are in both.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	k := openState(dir, "boot")
	k.tell(t, 1, services(viewsOf(view("web", "east"))))
	k.settle()
	k.file.base = -2 * minJournal
	next, err := k.begin()
	if err != nil {
		t.Fatal(err)
	}
	k.tell(t, 2, services(viewsOf(view("api", "east"))))
	if k.file.size <= 0 || next.size <= next.base {
		t.Errorf("old file has %d bytes, new one %d of which %d are the state", k.file.size, next.size, next.base)
	}
	k.settle()
	if k.next != nil || k.file.base < 0 {
		t.Error("it was not written anew")
	}
	k.die(t)
	k = openState(dir, "boot")
	k.expect(t, 2, viewsOf(view("web", "east"), view("api", "east")))
	k.end(t)
}

// A disk that takes nothing leaves no file that lacks something, is said once,
// and is tried again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	k := openState(dir, "boot")
	k.tell(t, 1, services(viewsOf(view("web", "east"))))
	k.settle()
	k.file.file.Close() // what is written to it fails from now on
	k.tell(t, 2, services(viewsOf(view("api", "east"))))
	k.tell(t, 3, services())
	if _, err := os.Stat(k.path()); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	if text := k.log.String(); strings.Count(text, "WARN") != 1 || !strings.Contains(text, "not on disk") {
		t.Errorf("log:\n%s", text)
	}
	k.settle()
	if text := k.log.String(); !strings.Contains(text, "on disk again") {
		t.Errorf("log:\n%s", text)
	}
	k.die(t)
	k = openState(dir, "boot")
	k.expect(t, 3, viewsOf(view("web", "east"), view("api", "east")))
	k.end(t)
}

// Where no file can be the agent goes on without.
func TestFolderThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	first := openState(dir, "boot")
	second := openState(dir, "boot")
	if text := second.log.String(); !strings.Contains(text, "in memory alone") || !strings.Contains(text, errLocked.Error()) {
		t.Errorf("a second agent: %s", text)
	}
	second.tell(t, 1, services(viewsOf(view("web", "east"))))
	second.expect(t, 1, viewsOf(view("web", "east")))
	first.end(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if text := openState(filepath.Join(file, "x"), "").log.String(); !strings.Contains(text, "in memory alone") {
		t.Errorf("below a file: %s", text)
	}
	if _, err := ReadDirectory(filepath.Join(dir, "none")); !os.IsNotExist(err) && !strings.Contains(fmt.Sprint(err), "no such file") {
		t.Errorf("read where nothing is: %v", err)
	}
}

// FuzzJournal: whatever is in the file, reading it neither panics nor takes
// something that was not written.
func FuzzJournal(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal")
	j, err := createJournal(path, origin{Cluster: "east", Boot: "boot"})
	if err != nil {
		f.Fatal(err)
	}
	for n := range uint64(2) {
		if err := j.appendAll(Revision{"e", n}, [][]byte{[]byte("x"), []byte("y")}); err != nil {
			f.Fatal(err)
		}
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte(journalFormat))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		count := 0
		_, err := readJournal(path, func(*feedpb.Batch) error { count++; return nil })
		if err == nil && len(text) < len(journalFormat) {
			t.Errorf("%q is a journal of %d changes", text, count)
		}
	})
}

// An address stays small: 250,000 are to be far below 150 MiB.
func TestMemoryOfAddresses(t *testing.T) {
	const count = 20_000
	k := openState("", "")
	d := merge.Delta{Addresses: map[netip.Prefix]*endpoint.Owner{}}
	for i := range count {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		d.Addresses[p] = &endpoint.Owner{
			Cluster: fmt.Sprint("cluster-", i%250), Identity: 70000, HostIP: netip.MustParseAddr("172.18.0.2"),
			Namespace: "a-namespace", Pod: fmt.Sprintf("deployment-5fcc8df587-%05d", i),
		}
	}
	before := heap()
	k.tell(t, 1, d)
	used := int64(heap()) - int64(before)
	runtime.KeepAlive(d)
	const buckets = 300 << 10 // of three kinds
	each := (used - buckets) / count
	t.Logf("an address takes %d bytes", each)
	if each > 250 {
		t.Errorf("an address takes %d bytes", each)
	}
	if n := k.shelves[Address].count; n != count {
		t.Errorf("%d are kept", n)
	}
}

// A state of many messages is written anew as it is.
func TestRewriteOfMany(t *testing.T) {
	cfg := StateConfig{Dir: t.TempDir(), Cluster: "east", Boot: "1", Logger: quiet}
	const services = 5000 // a megabyte
	s := OpenState(cfg)
	if _, err := s.accept(manyServices(t, services)); err != nil {
		t.Fatal(err)
	}
	s.settle()
	want, _, err := s.whole()
	if err != nil {
		t.Fatal(err)
	}
	if s.file.size < 3*batchBytes {
		t.Errorf("%d bytes are no many messages", s.file.size)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s = OpenState(cfg)
	got, ok, err := s.whole()
	if !ok || err != nil || len(got.Delta.Views) != services {
		t.Fatalf("%d views, %v, error %v", len(got.Delta.Views), ok, err)
	}
	if diff := cmp.Diff(want, got, byAddr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}
