package pin

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf/link"
)

// ReplaceLink pins a link that was just made at path, in the place of old, nil for
// none, and returns it as it is opened from there: what was made may be raw and
// say less of itself. made stays the caller's to close: its pin keeps it; old is
// closed, and with its pin gone that ends its attachment. With an error old is as
// it was, unless its pin is gone.
func ReplaceLink(made, old link.Link, path string) (link.Link, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return old, fmt.Errorf("replace pin: %w", err)
	}
	if err := made.Pin(path); err != nil {
		return old, fmt.Errorf("pin at %s: %w", path, err)
	}
	if old != nil {
		_ = old.Close()
	}
	opened, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned link %s: %w", path, err)
	}
	return opened, nil
}
