package kind

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Mesh is one version of Causeway, on its way into a bed's clusters.
type Mesh struct {
	// Images is the archive of the daemons' images, which all nodes have.
	Images string
	// Version is what its daemons say of themselves.
	Version string

	bed     *Bed
	command string // the command line
}

// BuildMesh builds the repository at root as `make build` and `make images` do, and
// gives the images, with this tag, to all nodes. Nothing is installed.
func (b *Bed) BuildMesh(ctx context.Context, root, tag string) (*Mesh, error) {
	programs := b.path("mesh", tag)
	m := &Mesh{bed: b, command: filepath.Join(programs, "causeway"), Images: filepath.Join(programs, "images.tar")}
	for _, args := range [][]string{
		{"build", "-buildvcs=auto", "-trimpath", "-ldflags", "-s -w", "-o", programs + "/", "./clustermesh-apiserver", "./node-agent", "./causeway"},
		{"run", "./deploy/images", "-binaries", programs, "-output", m.Images, "-tag", tag},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %s: %w:\n%s", strings.Join(args, " "), err, text)
		}
	}
	said, err := m.Causeway(ctx, "--version")
	if err != nil {
		return nil, err
	}
	words := strings.Fields(said)
	m.Version = words[len(words)-1]
	return m, b.LoadImage(ctx, m.Images)
}

// Causeway runs the command line as a user does, and returns what it printed; the
// error has all of it.
func (m *Mesh) Causeway(ctx context.Context, args ...string) (string, error) {
	cmd := m.bed.Command(ctx, m.command, args...)
	// Nobody's own settings.
	cmd.Env = append(cmd.Env, "HOME="+m.bed.dir, "CAUSEWAY_CONTEXT=", "CAUSEWAY_ADMIN_FILE=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("causeway %s: %w:\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// parentCommit checks the parent of the repository's commit out into a folder of the
// bed. The caller ends it with the function.
func (b *Bed) parentCommit(ctx context.Context) (root string, end func() error, err error) {
	own, err := repository()
	if err != nil {
		return "", nil, err
	}
	root = b.path("parent")
	if text, err := exec.CommandContext(ctx, "git", "-C", own, "worktree", "add", "--force", "--detach", root, "HEAD^").CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("git worktree add: %w:\n%s", err, text)
	}
	return root, func() error {
		// Also of worktrees that a crash left: their folders are gone.
		err := os.RemoveAll(root)
		if err == nil {
			err = exec.Command("git", "-C", own, "worktree", "prune").Run()
		}
		return err
	}, nil
}
