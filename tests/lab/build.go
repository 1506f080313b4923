package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildConfig says what Build makes.
type BuildConfig struct {
	// Packages are folders of main packages below the repository's root; all
	// that a mesh needs when empty.
	Packages []string
	// Output is the folder of the binaries; bin/ in the repository when empty.
	Output string
	// Race builds with the race detector.
	Race bool
	// Stripped leaves symbols out: another build of the same programs, which only
	// has to be linked.
	Stripped bool
	// Overlay is a file for the go command's -overlay, which has sources replaced;
	// none when empty.
	Overlay string
}

// Build compiles the programs that the lab starts and returns the folder that
// holds them. It may run in many processes at once.
func Build(ctx context.Context, config BuildConfig) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	output := config.Output
	if output == "" {
		output = filepath.Join(root, "bin")
	}
	packages := config.Packages
	if len(packages) == 0 {
		packages = []string{"clustermesh-apiserver", "node-agent", "causeway", "tests/echo", "tests/etcd"}
	}
	if err := os.MkdirAll(output, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of binaries: %w", err)
	}
	// Two at once would take the other's program away between build and start.
	held, err := lock(filepath.Join(output, ".lock"), 0)
	if err != nil {
		return "", err
	}
	defer unlock(held)
	// The command line's share of Kubernetes takes minutes to compile, and no lab
	// has a cluster for it.
	args := []string{"build", "-tags", "nokubernetes", "-o", output + string(filepath.Separator)}
	if config.Race {
		args = append(args, "-race")
	}
	if config.Stripped {
		args = append(args, "-ldflags=-s -w")
	}
	if config.Overlay != "" {
		args = append(args, "-overlay", config.Overlay)
	}
	for _, p := range packages {
		args = append(args, "./"+p)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w:\n%s", err, text)
	}
	return output, nil
}

// repository finds the folder of go.mod above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the repository: no go.mod in the working directory or above it")
		}
		dir = parent
	}
}

func (l *Lab) binary(name string) string { return filepath.Join(l.config.Binaries, name) }
