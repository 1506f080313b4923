// Package arch holds the rules about the shape of the source, as tests: who
// may import what, how long a file may be, which licence stands where. A test
// that fails says why the rule is there.
package arch

import (
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Module is the path of the product's Go module.
const Module = "github.com/causeway-mesh/causeway"

// File is a file of the repository; Path is relative to its root, with slashes.
type File struct {
	Path string
	Data []byte
}

// Root returns the directory of the product's go.mod, looked for from the
// working directory upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module "+Module+"\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod of " + Module + " above the working directory")
		}
		dir = parent
	}
}

// Files returns all regular files beneath root but those that are made: what
// git keeps for itself, binaries, results.
func Files(root string) ([]File, error) {
	made := map[string]bool{".git": true, "bin": true, "out": true}
	var files []File
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if made[relative] {
			return filepath.SkipDir
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files = append(files, File{Path: filepath.ToSlash(relative), Data: data})
		return nil
	})
	return files, err
}

// Generated reports whether a program wrote the file.
func (f File) Generated() bool {
	for line := range strings.Lines(string(f.Data)) {
		if strings.HasPrefix(line, "// Code generated ") && strings.HasSuffix(strings.TrimSpace(line), " DO NOT EDIT.") {
			return true
		}
		if strings.HasPrefix(line, "package ") {
			return false
		}
	}
	return false
}

// Lines returns how many lines the file has.
func (f File) Lines() int { return strings.Count(string(f.Data), "\n") }

// Package returns the file's directory: the package's path inside the module.
func (f File) Package() string { return path.Dir(f.Path) }

// Imports returns the paths that a Go file imports.
func (f File) Imports() ([]string, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), f.Path, f.Data, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, spec := range parsed.Imports {
		value, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: import %s: %w", f.Path, spec.Path.Value, err)
		}
		paths = append(paths, value)
	}
	return paths, nil
}

// Within reports whether name is dir, or lies beneath it.
func Within(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }
