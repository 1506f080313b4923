package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Bounding sets with and without CAP_SYS_RESOURCE.
const (
	all     = uint64(0x1ffffffffff)
	without = all &^ (1 << sysResource)
)

func TestCorrect(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, process string
		bounding      uint64
		want          string
	}{
		{
			"nothing is missing", `{"oomScoreAdj":-998,"rlimits":[{"type":"RLIMIT_NOFILE"}],"capabilities":{"bounding":["CAP_SYS_RESOURCE"]}}`, all,
			`{"oomScoreAdj":-998,"rlimits":[{"type":"RLIMIT_NOFILE"}],"capabilities":{"bounding":["CAP_SYS_RESOURCE"]}}`,
		},
		{
			"what needs the capability goes", `{"oomScoreAdj":-998,"rlimits":[{"type":"RLIMIT_NOFILE"}],"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"effective":[]}}`, without,
			`{"oomScoreAdj":0,"capabilities":{"bounding":["CAP_CHOWN"],"effective":[]}}`,
		},
		{"a score that is allowed stays", `{"oomScoreAdj":1000}`, without, `{"oomScoreAdj":1000}`},
		{
			"a privileged container of an old engine", `{"capabilities":{"bounding":["CAP_SYS_ADMIN","CAP_SYS_MODULE","CAP_BPF"]}}`, all,
			`{"capabilities":{"bounding":["CAP_SYS_ADMIN","CAP_SYS_MODULE","CAP_BPF","CAP_PERFMON","CAP_CHECKPOINT_RESTORE"]}}`,
		},
		{"not privileged", `{"capabilities":{"bounding":["CAP_SYS_ADMIN"]}}`, all, `{"capabilities":{"bounding":["CAP_SYS_ADMIN"]}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "process.json")
			if err := os.WriteFile(file, []byte(test.process), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := rewrite(file, func(p map[string]any) { correct(p, test.bounding) }); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(parse(t, test.want), parse(t, string(text))); diff != "" {
				t.Errorf("process (-want +got):\n%s", diff)
			}
		})
	}
}

func parse(t *testing.T, text string) (object map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// A limit is larger than what a float64 holds, and comes back as it was.
func TestRewriteKeepsNumbers(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(`{"limit":9223372036854771712}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(file, func(map[string]any) {}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"limit":9223372036854771712}`; string(text) != want {
		t.Errorf("rewritten: %s, want %s", text, want)
	}
	if err := rewrite(filepath.Join(t.TempDir(), "none"), nil); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	bundle, process := named([]string{"--root", "/run/runc", "create", "--bundle", "/b", "--pid-file", "/p", "id"})
	if bundle != "/b" || process != "" {
		t.Errorf("create: bundle %q and process %q, want /b and none", bundle, process)
	}
	bundle, process = named([]string{"exec", "--process", "/tmp/p.json", "--detach", "id"})
	if bundle != "" || process != "/tmp/p.json" {
		t.Errorf("exec: bundle %q and process %q, want none and /tmp/p.json", bundle, process)
	}
}

func TestBoundingSet(t *testing.T) {
	t.Parallel()
	if got, err := boundingSet("Name:\tx\nCapBnd:\t000001fffeffffff\n"); err != nil || got != without {
		t.Errorf("bounding set: %x, %v, want %x", got, err, without)
	}
	if _, err := boundingSet("Name:\tx\n"); err == nil {
		t.Error("a status without the set was taken")
	}
}
