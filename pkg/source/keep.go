package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The first line of a kept file: what it is, the content's checksum, the path of
// the manifest in quotes. The content follows as it was.
const keptHeader = "causeway-manifest-v1 %s %q\n"

const (
	keptSuffix  = ".manifest"
	draftSuffix = ".draft"
	// maxHeaderBytes is above what the longest path needs.
	maxHeaderBytes = 32 << 10
	// listedFile stands in the folder once everything has been read and kept:
	// from then on a manifest of which nothing is kept has never been in effect.
	listedFile = "listed"
)

// errNotKept says that there is no last good content of a file.
var errNotKept = errors.New("no earlier good content is kept")

type checksum [sha256.Size]byte

// keep holds the last good content of each manifest on disk, so that a file
// that breaks while nobody runs, or whose directory is away, costs nothing. It is
// owned by one goroutine. Contents may hold secrets: nobody but the owner reads them.
type keep struct {
	dir  string
	sums map[string]checksum // by the manifest's path
	// moved says that files came to stand in dir since it was synced.
	moved bool
	// listed says that what is kept is all that has ever been in effect.
	listed bool
}

// openKeep reads what is kept. Files that are torn or of another origin are named
// in ignored and left where they are.
func openKeep(dir string) (k *keep, ignored []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	k = &keep{dir: dir, sums: make(map[string]checksum)}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case draftSuffix: // a write that did not come to its end
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, nil, err
			}
		case keptSuffix:
			name, sum, err := readHeader(filepath.Join(dir, e.Name()))
			if err != nil || k.fileOf(name) != filepath.Join(dir, e.Name()) {
				ignored = append(ignored, e.Name())
				continue
			}
			k.sums[name] = sum
		default:
			k.listed = k.listed || e.Name() == listedFile
		}
	}
	k.listed = k.listed && len(ignored) == 0
	return k, ignored, nil
}

// setListed says whether what is kept is all that has ever been in effect.
func (k *keep) setListed(listed bool) error {
	if k.listed == listed {
		return nil
	}
	file := filepath.Join(k.dir, listedFile)
	if !listed {
		k.listed = false // whatever becomes of the file
		return os.Remove(file)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	k.listed, k.moved = true, true
	return k.sync()
}

func (k *keep) fileOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(k.dir, hex.EncodeToString(sum[:16])+keptSuffix)
}

func readHeader(file string) (name string, sum checksum, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", sum, err
	}
	defer f.Close()
	text := make([]byte, maxHeaderBytes)
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", sum, err
	}
	name, sum, _, err = cutHeader(text[:n])
	return name, sum, err
}

func cutHeader(text []byte) (name string, sum checksum, content []byte, err error) {
	line, content, found := bytes.Cut(text, []byte("\n"))
	if !found {
		return "", sum, nil, io.ErrUnexpectedEOF
	}
	var digits string
	if _, err := fmt.Sscanf(string(line)+"\n", keptHeader, &digits, &name); err != nil {
		return "", sum, nil, err
	}
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != len(sum) {
		return "", sum, nil, fmt.Errorf("checksum %q is none", digits)
	}
	return name, checksum(raw), content, nil
}

// load returns a manifest's last good content and when it was kept.
func (k *keep) load(name string) ([]byte, time.Time, error) {
	if _, ok := k.sums[name]; !ok {
		return nil, time.Time{}, errNotKept
	}
	info, err := os.Stat(k.fileOf(name))
	if err != nil {
		return nil, time.Time{}, err
	}
	text, err := os.ReadFile(k.fileOf(name))
	if err != nil {
		return nil, time.Time{}, err
	}
	_, sum, content, err := cutHeader(text)
	if err != nil {
		return nil, time.Time{}, err
	}
	if sha256.Sum256(content) != sum {
		return nil, time.Time{}, fmt.Errorf("%s is damaged: its checksum differs", k.fileOf(name))
	}
	return content, info.ModTime(), nil
}

// save keeps a manifest's content in place of the one before: after a crash it
// is the one or the other, after sync the new one. The same content is not written
// again.
func (k *keep) save(name string, content []byte) (err error) {
	sum := checksum(sha256.Sum256(content))
	if old, ok := k.sums[name]; ok && old == sum {
		return nil
	}
	file := k.fileOf(name)
	draft := strings.TrimSuffix(file, keptSuffix) + draftSuffix
	f, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, headerErr := fmt.Fprintf(f, keptHeader, hex.EncodeToString(sum[:]), name)
	_, contentErr := f.Write(content)
	if err := errors.Join(headerErr, contentErr, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	if err := os.Rename(draft, file); err != nil {
		return err
	}
	k.sums[name] = sum
	k.moved = true
	return nil
}

// sync returns when everything saved would survive a loss of power.
func (k *keep) sync() error {
	if !k.moved {
		return nil
	}
	d, err := os.Open(k.dir)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	k.moved = false
	return nil
}

// remove forgets a manifest that is gone.
func (k *keep) remove(name string) error {
	if _, ok := k.sums[name]; !ok {
		return nil
	}
	if err := os.Remove(k.fileOf(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(k.sums, name)
	return nil
}
