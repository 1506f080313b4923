package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// Pins is a folder of pins that no agent uses, to be taken out of the kernel: the
// way for a node that leaves, whatever version made them.
type Pins struct {
	dir  string
	lock *os.File // nil when there is no folder
}

// OpenPins takes the folder dir, which need not be there. The error wraps ErrInUse
// while an agent runs on it, and ErrBPFFS when it is another kind of folder. The
// caller closes the Pins.
func OpenPins(dir string) (*Pins, error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return &Pins{dir: dir}, nil
	}
	lock, err := pin.LockFolder(dir)
	if err != nil {
		return nil, err
	}
	return &Pins{dir, lock}, nil
}

// Close gives the folder up.
func (p *Pins) Close() error {
	if p.lock == nil {
		return nil
	}
	return p.lock.Close()
}

// List returns the paths of all pins and then of all folders, in the order in
// which they are to go: first what sends clients to backends, so that nobody is
// sent away when the way back has gone.
func (p *Pins) List() ([]string, error) {
	if p.lock == nil {
		return nil, nil
	}
	var pins, folders []string
	err := filepath.WalkDir(p.dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			folders = append(folders, path)
		default:
			pins = append(pins, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	order := hookNames()
	slices.SortStableFunc(pins, func(a, b string) int {
		return slices.Index(order, filepath.Base(b)) - slices.Index(order, filepath.Base(a))
	})
	slices.Reverse(folders) // those within others first
	return append(pins, folders...), nil
}

// Remove removes all of them and returns what it removed. Connections that exist
// go on; new ones to global services are translated no more. It may be repeated.
func (p *Pins) Remove() (removed []string, err error) {
	paths, err := p.List()
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return removed, fmt.Errorf("remove pin: %w", err)
		}
		removed = append(removed, path)
	}
	return removed, nil
}
