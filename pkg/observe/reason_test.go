package observe

import (
	"os"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
)

// Each reason of the programs has its words, and no other has.
func TestReasons(t *testing.T) {
	known := map[string]bool{}
	for r := packet.Malformed; !strings.HasPrefix(r.String(), "reason-"); r++ {
		known[r.String()] = true
	}
	for _, r := range Reasons() {
		if !known[r.Name] {
			t.Errorf("%q is listed twice, or nothing is dropped for it", r.Name)
		}
		delete(known, r.Name)
		for _, text := range []string{r.Means, r.Do} {
			if !strings.HasSuffix(text, ".") || strings.Count(text, ". ") > 0 {
				t.Errorf("%s: %q is not one sentence", r.Name, text)
			}
		}
		for _, d := range []Direction{ToMesh, FromMesh} {
			if words := r.Words(d); words == "" || strings.HasSuffix(words, ".") {
				t.Errorf("%s %s: %q", r.Name, d, words)
			}
		}
		if got, ok := ReasonNamed(r.Name); !ok || got != r {
			t.Errorf("%s is %+v", r.Name, got)
		}
	}
	for name := range known {
		t.Errorf("nothing says what %q means", name)
	}
	if _, ok := ReasonNamed("passed"); ok {
		t.Error("passed is a reason")
	}
}

// The documentation has the same words.
func TestReasonsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Reasons() {
		row := "| `" + r.Name + "` | " + r.Means + " | " + r.Do + " |\n"
		if !strings.Contains(string(text), row) {
			t.Errorf("docs/operations.md lacks the line\n%s", row)
		}
	}
}

func TestDirections(t *testing.T) {
	if packet.ToMesh.String() != string(ToMesh) || packet.FromMesh.String() != string(FromMesh) {
		t.Errorf("the programs say %s and %s", packet.ToMesh, packet.FromMesh)
	}
}
