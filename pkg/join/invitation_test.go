package join

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() Invitation {
	return newInvitation("east", []string{"192.0.2.10:8474", "[2001:db8::1]:8474", "gateway.east.example.com:443"},
		sha256.Sum256([]byte("authority")), time.Date(2030, 1, 2, 3, 4, 5, 999, time.UTC))
}

func TestInvitationText(t *testing.T) {
	inv := sample()
	text := inv.Text()
	if strings.ContainsAny(text, " \n\t") {
		t.Errorf("%q is not one word", text)
	}
	for _, copied := range []string{text, " " + text + "\r\n"} {
		got, err := ParseInvitation(copied)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(inv, got); diff != "" {
			t.Error(diff)
		}
	}
	if other := sample(); other.ID == inv.ID || other.Secret == inv.Secret {
		t.Error("two invitations have the same id or secret")
	}
}

// What goes to logs and errors must not let anybody in.
func TestInvitationKeepsItsSecret(t *testing.T) {
	inv := sample()
	text := inv.Text()
	body := strings.TrimPrefix(text, invitationPrefix)
	_, err := ParseInvitation(text[:len(text)-3])
	for _, said := range []string{inv.String(), err.Error()} {
		if strings.Contains(said, body[20:60]) || strings.Contains(said, base64.RawURLEncoding.EncodeToString(inv.Secret[:])[:20]) {
			t.Errorf("%q holds the secret", said)
		}
	}
}

// Every single change of the text is noticed.
func TestInvitationAltered(t *testing.T) {
	text := sample().Text()
	for i := range text {
		for _, c := range []byte{'A', 'z', '0', ' ', '.'} {
			if text[i] == c {
				continue
			}
			altered := text[:i] + string(c) + text[i+1:]
			if _, err := ParseInvitation(altered); !errors.Is(err, ErrInvitation) && strings.TrimSpace(altered) != text {
				t.Fatalf("with %q at %d: %v", c, i, err)
			}
		}
		if _, err := ParseInvitation(text[:i]); !errors.Is(err, ErrInvitation) {
			t.Fatalf("cut off at %d: %v", i, err)
		}
	}
}

func encode(body string) string {
	sum := sha256.Sum256([]byte(body))
	return invitationPrefix + base64.RawURLEncoding.EncodeToString(append([]byte(body), sum[:checksumBytes]...))
}

func TestParseInvitationRefuses(t *testing.T) {
	hex32, hex8 := strings.Repeat("ab", 32), strings.Repeat("cd", 8)
	good := `{"c":"east","a":["h:1"],"f":"` + hex32 + `","i":"` + hex8 + `","s":"` + hex32 + `","e":1}`
	if _, err := ParseInvitation(encode(good)); err != nil {
		t.Fatalf("the pattern itself: %v", err)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":       {"", "does not begin with"},
		"other":       {"eyJhbGciOi", "does not begin with"},
		"newer":       {strings.Replace(encode(good), "-1.", "-2.", 1), "does not begin with"},
		"long":        {encode(good) + strings.Repeat("A", maxInvitation), "more than"},
		"no base64":   {invitationPrefix + "%%%", "changed or cut off"},
		"no json":     {encode("x"), "another version"},
		"more fields": {encode(strings.Replace(good, "{", `{"x":1,`, 1)), "another version"},
		"name":        {encode(strings.Replace(good, "east", "EAST", 1)), "cluster name"},
		"no address":  {encode(strings.Replace(good, `["h:1"]`, `[]`, 1)), "0 addresses"},
		"addresses":   {encode(strings.Replace(good, `["h:1"]`, `["h:1"`+strings.Repeat(`,"h:1"`, MaxAddresses)+`]`, 1)), "17 addresses"},
		"no port":     {encode(strings.Replace(good, "h:1", "h", 1)), "not host:port"},
		"port 0":      {encode(strings.Replace(good, "h:1", "h:0", 1)), "not a number"},
		"host":        {encode(strings.Replace(good, "h:1", "h/x:1", 1)), "not host:port"},
		"fingerprint": {encode(strings.Replace(good, hex32, hex8, 1)), "its fingerprint is not of 32 bytes"},
		"id":          {encode(strings.Replace(good, hex8, "zz", 1)), "its id is not of 8 bytes"},
	} {
		if _, err := ParseInvitation(tc.text); !errors.Is(err, ErrInvitation) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want one that says %q", name, err, tc.want)
		}
	}
}

// Whatever is taken for an invitation is one that can be written again.
func FuzzParseInvitation(f *testing.F) {
	f.Add(sample().Text())
	f.Add(invitationPrefix)
	f.Add(encode(`{"c":"east"}`))
	f.Add(encode("null"))
	f.Fuzz(func(t *testing.T, text string) {
		for _, text := range []string{text, encode(text)} { // the checksum keeps nothing away
			inv, err := ParseInvitation(text)
			if err != nil {
				if !errors.Is(err, ErrInvitation) {
					t.Errorf("%q: %v", text, err)
				}
				continue
			}
			again, err := ParseInvitation(inv.Text())
			if err != nil || !cmp.Equal(inv, again) {
				t.Errorf("%q: %v, %s", text, err, cmp.Diff(inv, again))
			}
		}
	})
}
