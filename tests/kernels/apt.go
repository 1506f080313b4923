package kernels

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// apt is an apt of its own, which asks the mirrors of this system for other releases
// of Debian.
type apt struct{ root string }

// run runs a program of apt's with this root's settings.
func (a apt) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	settings := []string{
		"-o", "Dir=" + a.root, "-o", "Dir::Etc::Trusted=/etc/apt/trusted.gpg", "-o", "Dir::Etc::TrustedParts=/etc/apt/trusted.gpg.d",
		"-o", "Dir::State::status=" + filepath.Join(a.root, "status"), "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "-qq",
	}
	c := exec.CommandContext(ctx, program, append(settings, args...)...)
	c.Dir = dir
	var out, wrong bytes.Buffer
	c.Stdout, c.Stderr = &out, &wrong
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(wrong.String()))
	}
	return out.String(), nil
}

// setUp writes the sources and reads the lists of packages. "debian bullseye" is a
// suite at the mirror whose path ends in debian.
func (a apt) setUp(ctx context.Context, suites []string) error {
	mirrors, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return fmt.Errorf("ask apt for its mirrors: %w", err)
	}
	var sources strings.Builder
	for _, suite := range suites {
		archive, release, _ := strings.Cut(suite, " ")
		i := slices.IndexFunc(strings.Fields(string(mirrors)), func(uri string) bool { return strings.HasSuffix(strings.TrimRight(uri, "/"), "/"+archive) })
		if i < 0 {
			continue // this system does not have that archive
		}
		fmt.Fprintf(&sources, "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", strings.Fields(string(mirrors))[i], release)
	}
	if sources.Len() == 0 {
		return fmt.Errorf("none of apt's mirrors has %s: this needs a Debian system: %w", strings.Join(suites, " or "), errors.ErrUnsupported)
	}
	for _, dir := range []string{"etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(a.root, "etc/apt/sources.list"), []byte(sources.String()), 0o644),
		os.WriteFile(filepath.Join(a.root, "status"), nil, 0o644),
	); err != nil {
		return err
	}
	_, err = a.run(ctx, "", "apt-get", "update")
	return err
}

// newest returns the package with the newest kernel of a version, in its small form
// for virtual machines.
func (a apt) newest(ctx context.Context, version string) (string, error) {
	out, err := a.run(ctx, "", "apt-cache", "pkgnames", "linux-image-"+version+".")
	if err != nil {
		return "", err
	}
	fits := regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(version) + `\.\S*cloud-amd64$`)
	names := slices.DeleteFunc(strings.Fields(out), func(name string) bool { return !fits.MatchString(name) })
	if len(names) == 0 {
		return "", fmt.Errorf("no package linux-image-%s.*-cloud-amd64 is in Debian's lists", version)
	}
	return slices.MaxFunc(names, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) }), nil
}

// unpack downloads a package and unpacks it into target, whole or not at all.
func (a apt) unpack(ctx context.Context, name, target string) error {
	if _, err := a.run(ctx, a.root, "apt-get", "download", name); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(a.root, name+"_*.deb"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("%d files were downloaded: %w", len(files), err)
	}
	part := target + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", files[0], part).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Rename(part, target)
}
