package stranger

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestToken(t *testing.T) {
	p := NewPass("east", []string{"192.0.2.10:8474"}, sha256.Sum256([]byte("authority")), time.Now().Add(time.Hour))
	if _, err := ParseToken(TokenText(p)); !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "names no node") {
		t.Errorf("without a node: %v", err)
	}
	p.Node = "node-1"
	text := TokenText(p)
	if got, err := ParseToken(" " + text + "\n"); err != nil || !cmp.Equal(p, got) {
		t.Errorf("%q: %v, %s", text, err, cmp.Diff(p, got))
	}
	for _, wrong := range []string{"", text[:len(text)-1], strings.Replace(text, "agent-token", "invitation", 1)} {
		if _, err := ParseToken(wrong); !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "`causeway agent token`") {
			t.Errorf("%.40q: %v", wrong, err)
		}
	}
}
