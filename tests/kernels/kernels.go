// Package kernels runs the data plane's tests on the kernels of Debian's releases,
// in virtual machines: the oldest that the socket hooks need, one on which packets
// are carried by clsact, and one with tcx.
//
// A machine has nothing but a kernel of Debian's, its modules and a root file system
// in memory with the test binaries and the programs that they start. It is emulated,
// as build machines seldom have KVM, so it is some ten times slower than this one.
package kernels

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Kernel is one that Debian has.
type Kernel struct {
	// Version is the first two numbers, of which Debian's newest package counts.
	Version string
	// Suites are those of Debian in which it is looked for, with the archive's name.
	Suites []string
}

// Kernels are all that are tested.
func Kernels() []Kernel {
	return []Kernel{
		{"5.10", []string{"debian bullseye", "debian-security bullseye-security"}},
		{"6.1", []string{"debian bookworm", "debian-security bookworm-security"}},
		{"6.12", []string{"debian trixie", "debian-security trixie-security"}},
	}
}

// Image is a kernel on this machine.
type Image struct {
	// Name is that of the package.
	Name string
	// Kernel is the file that is booted, Modules the folder of its modules.
	Kernel, Modules string
}

// cacheDir is where packages are kept, unpacked.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "causeway", "kernels"), err
}

// find returns a kernel that was fetched already.
func (k Kernel) find(dir string) (Image, error) {
	found, err := filepath.Glob(filepath.Join(dir, "linux-image-"+k.Version+".*"))
	if err != nil || len(found) == 0 {
		return Image{}, errors.Join(err, fs.ErrNotExist)
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
	return open(newest)
}

// open looks into an unpacked package.
func open(dir string) (Image, error) {
	kernel, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(kernel) != 1 {
		return Image{}, fmt.Errorf("%s: %d kernels in a package: %w", dir, len(kernel), errors.Join(err, fs.ErrInvalid))
	}
	modules, err := filepath.Glob(filepath.Join(dir, "lib", "modules", "*"))
	if err == nil && len(modules) == 0 { // since Debian 13
		modules, err = filepath.Glob(filepath.Join(dir, "usr", "lib", "modules", "*"))
	}
	if err != nil || len(modules) != 1 {
		return Image{}, fmt.Errorf("%s: %d folders of modules in a package: %w", dir, len(modules), errors.Join(err, fs.ErrInvalid))
	}
	return Image{Name: filepath.Base(dir), Kernel: kernel[0], Modules: modules[0]}, nil
}

// numbers returns what orders versions.
func numbers(text string) (out []int) {
	for _, digits := range regexp.MustCompile(`\d+`).FindAllString(filepath.Base(text), -1) {
		n := 0
		for _, d := range digits {
			n = 10*n + int(d-'0')
		}
		out = append(out, n)
	}
	return out
}

// Fetch returns the kernel, which is downloaded once. It needs root's apt only to be
// set up: what it downloads from other releases, this system never sees.
func (k Kernel) Fetch(ctx context.Context) (Image, error) {
	dir, err := cacheDir()
	if err != nil {
		return Image{}, err
	}
	if image, err := k.find(dir); err == nil {
		return image, nil
	}
	a := apt{root: filepath.Join(dir, "apt-"+shortHash(strings.Join(k.Suites, " ")))}
	defer os.RemoveAll(a.root) // what counts has been unpacked
	if err := a.setUp(ctx, k.Suites); err != nil {
		return Image{}, fmt.Errorf("packages with Linux %s: %w", k.Version, err)
	}
	name, err := a.newest(ctx, k.Version)
	if err != nil {
		return Image{}, err
	}
	target := filepath.Join(dir, name)
	if err := a.unpack(ctx, name, target); err != nil {
		return Image{}, fmt.Errorf("package %s: %w", name, err)
	}
	return open(target)
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}
