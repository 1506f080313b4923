package join

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is in the text, and what makes it an invitation, is pkg/stranger's to test.
func TestInvitationText(t *testing.T) {
	inv := newInvitation("east", []string{"192.0.2.10:8474"}, sha256.Sum256([]byte("authority")), time.Now())
	text := inv.Text()
	got, err := ParseInvitation(" " + text + "\n")
	if err != nil || !cmp.Equal(inv, got) || !strings.HasPrefix(text, "causeway-invitation-1.") {
		t.Errorf("%q: %v, %s", text, err, cmp.Diff(inv, got))
	}
	if _, err := ParseInvitation(text[1:]); !errors.Is(err, ErrInvitation) || !strings.Contains(err.Error(), "causeway invite") {
		t.Errorf("cut off: %v", err)
	}
	if said := inv.String(); said != "invitation "+inv.Name()+" of cluster east" {
		t.Errorf("%q", said)
	}
}
