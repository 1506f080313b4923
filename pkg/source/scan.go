package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// maxFileBytes is what a manifest may hold; a dump of 50,000 pods is half of it.
const maxFileBytes = 512 << 20

// stamp tells one content of a file from another without reading it. The zero
// stamp is a file that is not there.
type stamp struct {
	device, inode uint64
	size          int64
	modified      syscall.Timespec
	changed       syscall.Timespec
}

func stampOf(info fs.FileInfo) stamp {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{size: info.Size()}
	}
	return stamp{device: s.Dev, inode: s.Ino, size: s.Size, modified: s.Mtim, changed: s.Ctim}
}

// place identifies a directory, by whatever path it is reached.
type place struct{ device, inode uint64 }

// survey is what a walk through the directory found. Paths are relative to it,
// with slashes; the directory itself is ".".
type survey struct {
	root  place
	files map[string]stamp
	dirs  []string
	// failed are the directories and files that could not be looked at. What is
	// beneath them is unknown, not gone.
	failed map[string]error
}

// hidden says whether something that could not be looked at lies above a file,
// or is the file itself.
func (s *survey) hidden(file string) bool {
	for at := file; ; at = path.Dir(at) {
		if _, ok := s.failed[at]; ok {
			return true
		}
		if at == "." {
			return false
		}
	}
}

// surveyor walks a directory. Symbolic links are followed, as Kubernetes mounts
// ConfigMaps by them; each directory is walked once, so links in circles end.
type surveyor struct {
	root string
	seen map[place]bool
	survey
}

func surveyDir(root string) *survey {
	s := surveyor{
		root:   root,
		seen:   make(map[place]bool),
		survey: survey{files: make(map[string]stamp), failed: make(map[string]error)},
	}
	info, err := os.Stat(root)
	if err != nil {
		s.failed["."] = fmt.Errorf("the directory %s: %w", root, plain(err))
		return &s.survey
	}
	if !info.IsDir() {
		s.failed["."] = errors.New("this is not a directory")
		return &s.survey
	}
	st := stampOf(info)
	s.survey.root = place{st.device, st.inode}
	s.walk(".", st)
	return &s.survey
}

func (s *surveyor) walk(dir string, st stamp) {
	at := place{st.device, st.inode}
	if s.seen[at] {
		return
	}
	s.seen[at] = true
	entries, err := os.ReadDir(filepath.Join(s.root, dir)) // sorted
	if err != nil {
		s.failed[dir] = plain(err)
		return
	}
	s.dirs = append(s.dirs, dir)
	for _, e := range entries {
		s.visit(path.Join(dir, e.Name()), e)
	}
}

func (s *surveyor) visit(name string, e fs.DirEntry) {
	link := e.Type()&fs.ModeSymlink != 0
	if strings.HasPrefix(e.Name(), ".") || (!isManifest(e.Name()) && !e.IsDir() && !link) {
		return
	}
	info, err := os.Stat(filepath.Join(s.root, name))
	switch {
	case errors.Is(err, fs.ErrNotExist) && !link:
		// It went between the two looks.
	case link && !isManifest(e.Name()) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP)):
		// It leads to nothing, and has no manifest's name.
	case err != nil:
		s.failed[name] = plain(err)
	case info.IsDir():
		s.walk(name, stampOf(info))
	case !isManifest(e.Name()):
	case !info.Mode().IsRegular():
		s.failed[name] = errors.New("this is not a regular file")
	default:
		s.files[name] = stampOf(info)
	}
}

// isManifest goes by the names that kubectl takes; what editors leave behind
// (web.yaml~, #web.yaml#, .web.yaml.swp) has none of them or is hidden.
func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// errUnsettled says that a file changed while it was read.
var errUnsettled = errors.New("the file changes while it is read")

// readFile reads a file whose stamp is known and makes sure that it is that content.
func readFile(name string, expected stamp) ([]byte, error) {
	if expected.size > maxFileBytes {
		return nil, fmt.Errorf("the file has %d MiB: more than %d are not read, divide it", expected.size>>20, maxFileBytes>>20)
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	text := make([]byte, expected.size)
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, plain(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, plain(err)
	}
	if stampOf(info) != expected || int64(n) != expected.size {
		return nil, errUnsettled
	}
	return text, nil
}

// plain leaves the path out of an error of the file system: problems name it already.
func plain(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}
