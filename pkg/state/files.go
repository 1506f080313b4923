package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// draft matches files that are being written, which os.CreateTemp has named, and locks.
var draft = regexp.MustCompile(`^(\..*\.[0-9]+|kubernetes-uid\.[0-9]+|\.lock)$`)

// looks is how often files that change meanwhile are read before it is left for later.
const looks = 20

var errUnsteady = errors.New("the files change all the time")

// collect reads the files at and below roots, in the order of their paths. Several that
// are changed one after another are read until they are as they were a moment
// before: so the key of an authority is that of its certificate.
func collect(dir string, roots []string) ([]file, error) {
	before, err := collectOnce(dir, roots)
	for range looks {
		if err != nil {
			return nil, err
		}
		var now []file
		if now, err = collectOnce(dir, roots); err == nil && slices.EqualFunc(before, now, same) {
			return now, nil
		}
		before = now
	}
	return nil, errUnsteady
}

func same(a, b file) bool { return a.Path == b.Path && a.Mode == b.Mode && bytes.Equal(a.Text, b.Text) }

func collectOnce(dir string, roots []string) (out []file, err error) {
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(dir, root), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone meanwhile, or not made yet
			}
			if err != nil || !entry.Type().IsRegular() || draft.MatchString(entry.Name()) {
				return err
			}
			info, err := entry.Info()
			var text []byte
			if err == nil {
				text, err = os.ReadFile(path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			name, err := filepath.Rel(dir, path)
			out = append(out, file{Path: name, Mode: info.Mode().Perm(), Text: text})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read what is to be kept: %w", err)
		}
	}
	slices.SortFunc(out, func(a, b file) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// restore writes files below dir, those at and below roots and no other. What
// an earlier try left there goes.
func restore(dir string, roots []string, files []file) error {
	for _, f := range files {
		if !within(roots, f.Path) {
			return fmt.Errorf("%w: it has the file %q", ErrDamaged, f.Path)
		}
	}
	for _, root := range roots {
		if err := os.RemoveAll(filepath.Join(dir, root)); err != nil {
			return fmt.Errorf("make room for what was kept: %w", err)
		}
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make room for what was kept: %w", err)
		}
		if err := pki.WriteFile(path, f.Text, f.Mode.Perm()&0o644); err != nil {
			return err
		}
	}
	return nil
}

func within(roots []string, path string) bool {
	return filepath.IsLocal(path) && filepath.Clean(path) == path && slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+string(filepath.Separator))
	})
}
