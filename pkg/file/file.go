// Package file writes files that are there as a whole or not at all, over a crash and a
// power cut, too.
package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces path by a file of this text and mode. A reader, or the next start
// after a crash, sees the old text or the new one; once Write has returned, the new
// one. What a crash leaves beside it begins with a dot.
func Write(path string, text []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	draft, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(draft.Name()) // there is none once it has its name
		}
	}()
	_, err = draft.Write(text)
	err = errors.Join(err, draft.Chmod(mode), draft.Sync(), draft.Close())
	if err == nil {
		err = os.Rename(draft.Name(), path)
	}
	if err == nil {
		err = SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}

// SyncDir makes the names inside dir survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
