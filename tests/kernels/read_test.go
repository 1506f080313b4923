package kernels

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a machine prints is told apart by test binary, with the kernel's own lines
// in between.
func TestRead(t *testing.T) {
	t.Parallel()
	console := strings.ReplaceAll(`[    1.0] booting
=== CAUSEWAY START a
--- PASS: TestOne (0.00s)
    --- FAIL: TestOne/part (0.00s)
[    2.0] a line of the kernel
--- SKIP: TestTwo (0.00s)
=== CAUSEWAY END 0
=== CAUSEWAY START b
--- FAIL: TestThree (0.00s)
=== CAUSEWAY END 1
=== CAUSEWAY START c
--- PASS: TestFour (0.00s)
`, "\n", "\r\n")
	got, done := read(strings.NewReader(console))
	for _, r := range got {
		r.Output = ""
	}
	want := map[string]*Result{
		"a": {Passed: []string{"TestOne"}, Skipped: []string{"TestTwo"}},
		"b": {Status: 1, Failed: []string{"TestThree"}},
		"c": {Status: -1, Passed: []string{"TestFour"}},
	}
	if diff := cmp.Diff(want, got); diff != "" || done {
		t.Errorf("done %v, %s", done, diff)
	}
	if _, done := read(strings.NewReader("=== CAUSEWAY DONE\n")); !done {
		t.Error("the end is not seen")
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	names := []string{"linux-image-6.12.94+deb13-cloud-amd64", "linux-image-6.12.107+deb13-cloud-amd64", "linux-image-6.12.9-cloud-amd64"}
	newest := slices.MaxFunc(names, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
	if newest != names[1] {
		t.Error(newest)
	}
}

// An archive is what cpio takes for one.
func TestArchive(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &archive{w: &out, made: map[string]bool{".": true}}
	a.add("init", 0o755, []byte("odd"))
	a.add("/a/b/c", 0o644, []byte("data"))
	a.add("a/b/c", 0o644, []byte("again"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	if out.Len()%4 != 0 || bytes.Count(out.Bytes(), []byte("070701")) != 5 || bytes.Contains(out.Bytes(), []byte("again")) {
		t.Errorf("%q", out.Bytes())
	}
	for at, name := range []string{"init", "a", "a/b", "a/b/c", "TRAILER!!!"} {
		i := bytes.Index(out.Bytes(), []byte(name+"\x00"))
		if i < 0 {
			t.Fatalf("%d: no %q", at, name)
		}
		out.Next(i)
	}
}

// The modules that a module of this system needs are those that it says.
func TestDepends(t *testing.T) {
	t.Parallel()
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := depends(binary); err == nil {
		t.Error("a program is taken for a module")
	}
	if _, err := depends([]byte("text")); err == nil {
		t.Error("text is taken for a module")
	}
	objcopy, err := exec.LookPath("objcopy")
	if err != nil {
		return // without it there is no module to be made
	}
	dir := t.TempDir()
	info, module := filepath.Join(dir, "info"), filepath.Join(dir, "m.ko")
	if err := os.WriteFile(info, []byte("license=GPL\x00depends=udp_tunnel,ip6-udp-tunnel\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), objcopy, "--add-section", ".modinfo="+info, os.Args[0], module).CombinedOutput(); err != nil {
		t.Fatalf("objcopy: %v\n%s", err, out)
	}
	data, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := depends(data); err != nil || !slices.Equal(got, []string{"udp_tunnel", "ip6_udp_tunnel"}) {
		t.Errorf("%q, %v", got, err)
	}
	if moduleName("/x/nf-tables.ko.xz") != "nf_tables" {
		t.Error(moduleName("/x/nf-tables.ko.xz"))
	}
}
