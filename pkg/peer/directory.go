package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// rescan is how often the directory is looked at besides when it says that it
// changed: a mount may change without a notice.
const rescan = 5 * time.Second

// settle is how long after a notice the directory is read: whoever writes a
// file is mostly not done at the first one.
const settle = 100 * time.Millisecond

// listing is what a directory of peer files says at one time.
type listing struct {
	files map[string]File // by peer
	// problems are files that can not be used, by file name. A peer whose file
	// has a problem keeps what its file said before.
	problems map[string]error
}

// has reports whether there is a file for a peer, good or not.
func (l listing) has(name string) bool {
	_, good := l.files[name]
	_, bad := l.problems[name]
	return good || bad
}

// parser reads the text of a file that stands in dir.
type parser func(text []byte, dir string) (File, error)

// readDirectory reads the peers of a directory. own is the cluster's own name,
// which can not be a peer's. Files that are no peers, such as the certificates
// that often lie beside them, are passed over.
func readDirectory(dir, own string, parse parser) (listing, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return listing{}, fmt.Errorf("read the directory of peers: %w", err)
	}
	out := listing{files: map[string]File{}, problems: map[string]error{}}
	for _, entry := range entries {
		name := entry.Name()
		if passedOver(name) {
			continue
		}
		file, isDir, err := readFile(filepath.Join(dir, name), name, own, parse)
		switch {
		case isDir || errors.Is(err, fs.ErrNotExist) && !isLink(entry): // gone since
		case err != nil:
			out.problems[name] = err
		default:
			out.files[name] = file
		}
	}
	return out, nil
}

// isLink reports whether an entry may be there though what it names is not: a
// mount that is away takes no peer with it.
func isLink(entry fs.DirEntry) bool { return entry.Type()&fs.ModeSymlink != 0 }

func passedOver(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
		return true
	}
	return slices.Contains([]string{".crt", ".key", ".pem", ".swp"}, filepath.Ext(name))
}

func readFile(path, name, own string, parse parser) (file File, isDir bool, err error) {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() {
		return File{}, err == nil, err
	}
	if err := cluster.ValidateName(name); err != nil {
		return File{}, false, fmt.Errorf("a peer's file has its cluster's name: %w", err)
	}
	if name == own {
		return File{}, false, fmt.Errorf("%w: %q is this cluster's own name", ErrFile, name)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return File{}, false, err
	}
	file, err = parse(text, filepath.Dir(path))
	file.Path = path
	return file, false, err
}

// readDirectories reads what is declared in dir and by resources, and what joined; the
// last two may be "". Of a cluster that is in several the first counts, but that what
// resources say without a way to reach it holds for the one that joined.
func readDirectories(dir, resources, joined, own string) (listing, error) {
	found, err := readDirectory(dir, own, ParseFile)
	if err != nil {
		return listing{}, err
	}
	said, met := listing{}, listing{}
	if resources != "" {
		if said, err = readDirectory(resources, own, ParseBounded); err != nil {
			return listing{}, err
		}
	}
	if joined != "" {
		if met, err = readDirectory(joined, own, ParseFile); err != nil {
			return listing{}, err
		}
	}
	for name, file := range said.files {
		if len(file.Endpoints) > 0 {
			continue
		}
		delete(said.files, name)
		if peer, ok := met.files[name]; ok {
			peer.Claims, peer.Import, peer.Bounds = file.Claims, file.Import, file.Path
			met.files[name] = peer
		}
	}
	found.add(said)
	found.add(met)
	return found, nil
}

// add adds what is not there yet.
func (l listing) add(more listing) {
	before := listing{files: maps.Clone(l.files), problems: maps.Clone(l.problems)}
	for name, file := range more.files {
		if !before.has(name) {
			l.files[name] = file
		}
	}
	for name, problem := range more.problems {
		if !before.has(name) {
			l.problems[name] = problem
		}
	}
}

// watchDirectories calls look at once, after every change in one of dirs, soon again
// when look asks for it, and from time to time, until ctx ends.
func watchDirectories(ctx context.Context, dirs []string, look func() (again bool)) {
	var events chan fsnotify.Event
	var failures chan error
	if w, err := fsnotify.NewWatcher(); err == nil { // without one, rescan is enough
		defer func() { _ = w.Close() }()
		for _, dir := range dirs {
			_ = w.Add(dir)
		}
		events, failures = w.Events, w.Errors
	}
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	var settled <-chan time.Time
	take := func() {
		if look() {
			settled = time.After(settle)
		}
	}
	take()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			settled = time.After(settle)
		case <-failures: // an overflow: the next tick sees it
		case <-settled:
			settled = nil
			take()
		case <-tick.C:
			take()
		}
	}
}
