package source

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// FuzzKept gives openKeep and load any bytes as what is kept of a manifest: they
// are left alone, refused, or the content that their own checksum is of.
func FuzzKept(f *testing.F) {
	kept := func(name, content string) []byte {
		return fmt.Appendf([]byte(nil), keptHeader+"%s", fmt.Sprintf("%x", sha256.Sum256([]byte(content))), name, content)
	}
	const name = "shop/web.yaml"
	f.Add(kept(name, namespace("a")))
	f.Add(kept(name, ""))
	f.Add(kept("another.yaml", namespace("a")))
	f.Add(kept(name, namespace("a"))[:90])
	f.Add([]byte("causeway-manifest-v1  \"\"\n"))
	dir := f.TempDir()
	file := (&keep{dir: dir}).fileOf(name)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		k, ignored, err := openKeep(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(k.sums)+len(ignored) != 1 || len(ignored) == 1 && ignored[0] != filepath.Base(file) {
			t.Fatalf("kept %v, ignored %v; want the one file", k.sums, ignored)
		}
		content, _, err := k.load(name)
		if err != nil {
			return
		}
		if len(ignored) > 0 || sha256.Sum256(content) != k.sums[name] {
			t.Errorf("load gave %q of %q", content, text)
		}
	})
}
