package kernels

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// modules are those of Debian's kernels that tests need, with what they depend on.
// One that a kernel has built in, or does not know, is no error.
func modules() []string {
	return []string{
		"vxlan", "veth", "bridge", "dummy", "cls_bpf", "sch_ingress", "inet_diag", "tcp_diag", "udp_diag",
		"nf_tables", "nft_chain_nat", "nft_masq", "nft_ct", "nft_counter", "nft_compat", "nft_fib_inet", "nft_limit", "nft_reject_inet", "nft_objref", "nft_nat",
		"xt_MASQUERADE", "xt_comment", "xt_conntrack", "xt_tcpudp", "xt_mark", "xt_nat", "ip_tables", "iptable_filter", "iptable_nat", "ip6_tables", "ip6table_filter", "ip6table_nat",
	}
}

// programs are what tests start.
func programs() []string {
	return []string{"ip", "nft", "iptables-nft", "iptables-legacy", "iptables-legacy-save", "ip6tables-legacy", "ip6tables-nft"}
}

// Test is a package's test binary and how it is run.
type Test struct {
	// Package is the folder, from the repository's root.
	Package string
	// Run are the tests, a pattern of go test's; all when empty.
	Run string
}

// WriteRoot writes the root file system of a machine that runs tests: for each a
// binary, and init, which starts them in turn.
func WriteRoot(ctx context.Context, name string, image Image, binaries map[string]string, tests []Test) (err error) {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	packed, err := gzip.NewWriterLevel(file, gzip.BestSpeed)
	if err != nil {
		return err
	}
	a := &archive{w: packed, made: map[string]bool{".": true}}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "root", "lib/modules"} {
		a.add(dir, os.ModeDir|0o755, nil)
	}
	a.copyFile("init", binaries["init"])
	var plan strings.Builder
	for _, test := range tests {
		at := "tests/" + strings.ReplaceAll(test.Package, "/", "-")
		a.copyFile(at, binaries[test.Package])
		fmt.Fprintf(&plan, "%s %s %s\n", test.Package, at, test.Run)
	}
	a.add("tests/plan", 0o644, []byte(plan.String()))
	if err := errors.Join(a.addModules(ctx, image), a.addPrograms(ctx), a.close()); err != nil {
		return err
	}
	return packed.Close()
}

// addModules adds modules and writes in which order they are loaded.
func (a *archive) addModules(ctx context.Context, image Image) error {
	files := map[string]string{}
	err := filepath.WalkDir(image.Modules, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && strings.Contains(entry.Name(), ".ko") {
			files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	var order []string
	var add func(name string) error
	add = func(name string) error {
		file := files[name]
		if file == "" || slices.Contains(order, name) {
			return nil // it is built in, or there already
		}
		data, err := uncompressed(ctx, file)
		if err != nil {
			return err
		}
		needed, err := depends(data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, other := range needed {
			if err := add(other); err != nil {
				return err
			}
		}
		order = append(order, name)
		a.add("lib/modules/"+name, 0o644, data)
		return nil
	}
	for _, name := range modules() {
		if err := add(name); err != nil {
			return err
		}
	}
	a.add("lib/modules/order", 0o644, []byte(strings.Join(order, "\n")))
	return nil
}

// depends returns the modules that one says it needs.
func depends(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it says nothing about itself")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok {
			return strings.FieldsFunc(strings.ReplaceAll(string(list), "-", "_"), func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}

// moduleName returns a module's name by that of its file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func uncompressed(ctx context.Context, file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".xz") {
		return os.ReadFile(file)
	}
	data, err := exec.CommandContext(ctx, "xz", "-dc", file).Output()
	if err != nil {
		return nil, fmt.Errorf("xz -dc %s: %w", file, err)
	}
	return data, nil
}

// addPrograms adds what tests start, with the libraries that it needs. Programs that
// are found by a link are there by that name, too, as some do what their name says.
func (a *archive) addPrograms(ctx context.Context) error {
	library := regexp.MustCompile(`(/\S+\.so\S*)`)
	for _, name := range programs() {
		file, err := exec.LookPath(name)
		if err != nil {
			return fmt.Errorf("%w: install iproute2, nftables and iptables", err)
		}
		a.copyFile("sbin/"+name, file)
		// It fails for what needs no libraries.
		out, _ := exec.CommandContext(ctx, "ldd", file).Output()
		for _, needed := range library.FindAllString(string(out), -1) {
			a.copyFile(needed, needed)
		}
	}
	for _, pattern := range []string{"/usr/lib/*/xtables/libxt_*.so", "/usr/lib/*/xtables/libipt_*.so"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range found {
			a.copyFile(file, file)
		}
	}
	return nil
}
