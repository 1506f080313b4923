package kernels

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// archive writes the form of archive that a kernel unpacks into its first root file
// system: cpio, "new ASCII" (Documentation/driver-api/early-userspace/buffer-format).
type archive struct {
	w    io.Writer
	made map[string]bool
	n    int
	err  error
}

// add writes a file, and the folders above it. The first error is kept for close.
func (a *archive) add(name string, mode fs.FileMode, data []byte) {
	name = strings.Trim(path.Clean("/"+name), "/")
	if dir := path.Dir(name); dir != "." && !a.made[dir] {
		a.add(dir, fs.ModeDir|0o755, nil)
	}
	if a.made[name] {
		return
	}
	a.made[name] = true
	kind := uint32(0o100000)
	switch mode.Type() {
	case fs.ModeDir:
		kind = 0o040000
	case fs.ModeSymlink:
		kind = 0o120000
	}
	a.entry(name, kind|uint32(mode.Perm()), data)
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	a.n++
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.n, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	for _, part := range [][]byte{padded([]byte(header)), padded(data)} {
		if a.err == nil {
			_, a.err = a.w.Write(part)
		}
	}
}

// padded returns data up to a multiple of four bytes.
func padded(data []byte) []byte { return append(data, make([]byte, -len(data)&3)...) }

// copyFile adds a file of this system under its own name or another.
func (a *archive) copyFile(name, from string) {
	data, err := os.ReadFile(from)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.add(name, 0o755, data)
}

// close ends the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil)
	return a.err
}
