package main

import (
	"os/exec"
	"strings"
	"testing"
)

func TestAnswering(t *testing.T) {
	t.Parallel()
	const source = `package p

type T struct{}

func Say() error { return nil }

func (t *T) Say(n int) error {
	return fail(n)
}

func (t *T) Keep() {}
`
	got, err := answering([]byte(source), map[string]string{"Say": "return nil"})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(source, "(n int) error {\n", "(n int) error { return nil;\n", 1)
	if string(got) != want {
		t.Errorf("answering =\n%s\nwant\n%s", got, want)
	}
	if _, err := answering([]byte(source), map[string]string{"Say": "return nil", "Away": "return"}); err == nil {
		t.Error("a method that is not there was no error")
	}
}

// The sources that are measured without judging are those of today.
func TestBelieve(t *testing.T) {
	t.Parallel()
	overlay, err := believe(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "github.com/causeway-mesh/causeway/pkg/peer/trust").CombinedOutput(); err != nil {
		t.Errorf("go build: %v\n%s", err, text)
	}
}

func TestBeyondNoise(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		low, high float64
		met       bool
	}{{0.98, 1.02, true}, {1.02, 1.2, true}, {1.06, 1.2, false}} {
		f := figure{}.beyondNoise(interval{Value: 1.1, Low: c.low, High: c.high}, 1.05)
		if f.Met != c.met || f.Budget == "" {
			t.Errorf("interval %v to %v: met %v, want %v", c.low, c.high, f.Met, c.met)
		}
	}
}
