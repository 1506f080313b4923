package packet

import (
	"os"
	"path/filepath"
)

// Present reports whether a process has pinned something in the agent's folder
// for pins that Remove would delete.
func Present(bpffs string) bool {
	_, err := os.Stat(filepath.Join(bpffs, folder))
	return err == nil
}
