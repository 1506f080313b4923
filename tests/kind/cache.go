package kind

import (
	"context"
	"crypto/sha256"
	_ "embed" // the scripts
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// Modules that programs of the clusters are built from. Later releases of
// flannel miss a dependency.
const (
	kindModule    = "sigs.k8s.io/kind@v0.33.0"
	corednsModule = "github.com/coredns/coredns@v1.15.0"
	flannelModule = "github.com/flannel-io/flannel@v0.26.7"
)

//go:embed image/base.sh
var baseScript string

//go:embed image/node.sh
var nodeScript string

// Parts are what clusters are made of. They are kept outside the repository
// under names made of what went into them.
type Parts struct {
	// Kubernetes is the multi-call binary of tests/kubelab; Kind is kind's command
	// line, and Helper the program of helper/.
	Kubernetes, Kind, Helper string
	// Node is an archive with the file system of a node, and Tag what tells it from
	// others; empty with KIND_IMAGE.
	Node, Tag string
}

// cache is the folder of what is kept.
type cache struct {
	dir string
	say io.Writer
}

// Build makes what is not there yet: minutes the first time. Several processes
// may call it, and one of them does the work. Progress goes to say.
func Build(ctx context.Context, say io.Writer) (Parts, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return Parts{}, fmt.Errorf("find the cache of clusters' parts: %w", err)
	}
	c := cache{dir: filepath.Join(dir, "causeway", "kind"), say: say}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return Parts{}, fmt.Errorf("make the cache of clusters' parts: %w", err)
	}
	var p Parts
	if p.Kubernetes, err = kubelab.Build(ctx, say); err != nil {
		return Parts{}, err
	}
	held, err := lockFile(filepath.Join(c.dir, "lock"), unix.LOCK_EX)
	if err != nil {
		return Parts{}, err
	}
	defer func() { _ = held.Close() }()
	if p.Kind, err = c.program(ctx, "kind", kindModule, "0"); err != nil {
		return Parts{}, err
	}
	if p.Helper, err = c.helper(ctx); err != nil || published() != "" {
		return p, err
	}
	p.Node, p.Tag, err = c.node(ctx, p)
	return p, err
}

// node makes the archive of a node's file system.
func (c cache) node(ctx context.Context, p Parts) (path, tag string, err error) {
	coredns, err := c.program(ctx, "coredns", corednsModule, "0")
	if err != nil {
		return "", "", err
	}
	// A part of flannel is in C.
	flannel, err := c.program(ctx, "flannel", flannelModule, "1")
	if err != nil {
		return "", "", err
	}
	base, err := c.keep("base", []string{baseScript}, func(to string) error {
		return c.script(ctx, baseScript, to)
	})
	if err != nil {
		return "", "", err
	}
	// All but the repository's own files are named by their content already.
	from := []string{nodeScript, kindModule, p.Kubernetes, p.Helper, coredns, flannel, base}
	path, err = c.keep("node", from, func(to string) error {
		files, err := moduleFolder(ctx, kindModule)
		if err != nil {
			return err
		}
		programs, err := os.MkdirTemp(c.dir, "programs-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(programs) }()
		for name, target := range map[string]string{"kubernetes": p.Kubernetes, "helper": p.Helper, "coredns": coredns, "flanneld": flannel} {
			if err := os.Link(target, filepath.Join(programs, name)); err != nil {
				return err
			}
		}
		return c.script(ctx, nodeScript, to, base, filepath.Join(files, "images", "base", "files"), programs)
	})
	return path, path[strings.LastIndexByte(path, '-')+1:], err
}

// program makes a program of a module that is on Go's proxy.
func (c cache) program(ctx context.Context, name, module, cgo string) (string, error) {
	version, err := goVersion(ctx)
	if err != nil {
		return "", err
	}
	return c.keep(name, []string{module, version, cgo}, func(to string) error {
		dir, err := os.MkdirTemp(c.dir, "go-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		cmd := exec.CommandContext(ctx, "nice", "go", "install", "-trimpath", "-ldflags", "-s -w -extldflags=-static", module)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED="+cgo)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go install %s: %w:\n%s", module, err, text)
		}
		return os.Rename(filepath.Join(dir, name), to)
	})
}

func (c cache) helper(ctx context.Context) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(filepath.Join(root, "tests", "kind", "helper", "main.go"))
	if err != nil {
		return "", err
	}
	version, err := goVersion(ctx)
	if err != nil {
		return "", err
	}
	return c.keep("helper", []string{string(source), version}, func(to string) error {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", to, "./tests/kind/helper")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the helper: %w:\n%s", err, text)
		}
		return nil
	})
}

// keep returns the path of what is made from the parts; build makes it at the
// path that it is given. What was made before from other parts goes.
func (c cache) keep(name string, from []string, build func(to string) error) (string, error) {
	sum := sha256.New()
	for _, part := range from {
		fmt.Fprintf(sum, "%d\x00%s", len(part), strings.TrimPrefix(part, c.dir))
	}
	path := filepath.Join(c.dir, fmt.Sprintf("%s-%x", name, sum.Sum(nil)[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	fmt.Fprintf(c.say, "making %s for clusters into %s, once\n", name, c.dir)
	begun := time.Now()
	// Links of it may be in use; they hold the file.
	old, _ := filepath.Glob(filepath.Join(c.dir, name+"-*")) // the pattern is good
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return "", fmt.Errorf("make room for %s: %w", name, err)
		}
	}
	draft := filepath.Join(c.dir, "draft."+name)
	if err := build(draft); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	fmt.Fprintf(c.say, "made %s in %s\n", name, time.Since(begun).Round(time.Second))
	return path, os.Rename(draft, path)
}

func (c cache) script(ctx context.Context, text string, args ...string) error {
	cmd := exec.CommandContext(ctx, "nice", append([]string{"sh", "-c", text, "sh"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w:\n%s", err, out)
	}
	return nil
}

func goVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOARCH").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return string(out), nil
}

// moduleFolder returns where Go's cache has the files of a module.
func moduleFolder(ctx context.Context, module string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "mod", "download", "-json", module).Output()
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	return found.Dir, nil
}

// repository finds the folder of the product's go.mod, from the working
// directory upwards.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/causeway-mesh/causeway\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the repository: no go.mod of it in the working directory or above")
		}
		dir = parent
	}
}

// lockFile waits for the lock of a file, or fails with unix.LOCK_NB where another
// has it. Closing the file lets it go.
func lockFile(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a lock: %w", err)
	}
	for {
		err = unix.Flock(int(file.Fd()), how)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
	}
}
