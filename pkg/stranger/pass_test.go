package stranger

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var errPass = errors.New("no pass")

func form() Form { return Form{Prefix: "causeway-pass-1.", Command: "causeway pass", Err: errPass} }

func sample() Pass {
	return NewPass("east", []string{"192.0.2.10:8474", "[2001:db8::1]:8474", "gateway.east.example.com:443"},
		sha256.Sum256([]byte("authority")), time.Date(2030, 1, 2, 3, 4, 5, 999, time.UTC))
}

func TestText(t *testing.T) {
	inv := sample()
	text := form().Text(inv)
	if strings.ContainsAny(text, " \n\t") {
		t.Errorf("%q is not one word", text)
	}
	for _, copied := range []string{text, " " + text + "\r\n"} {
		got, err := form().Parse(copied)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(inv, got); diff != "" {
			t.Error(diff)
		}
	}
	if other := sample(); other.ID == inv.ID || other.Secret == inv.Secret {
		t.Error("two passes have the same id or secret")
	}
}

// What goes to logs and errors must not let anybody in.
func TestKeepsItsSecret(t *testing.T) {
	inv := sample()
	text := form().Text(inv)
	body := strings.TrimPrefix(text, form().Prefix)
	_, err := form().Parse(text[:len(text)-3])
	for _, said := range []string{inv.Name(), err.Error()} {
		if strings.Contains(said, body[20:60]) || strings.Contains(said, base64.RawURLEncoding.EncodeToString(inv.Secret[:])[:20]) {
			t.Errorf("%q holds the secret", said)
		}
	}
}

// Every single change of the text is noticed.
func TestAltered(t *testing.T) {
	text := form().Text(sample())
	for i := range text {
		for _, c := range []byte{'A', 'z', '0', ' ', '.'} {
			if text[i] == c {
				continue
			}
			altered := text[:i] + string(c) + text[i+1:]
			if _, err := form().Parse(altered); !errors.Is(err, errPass) && strings.TrimSpace(altered) != text {
				t.Fatalf("with %q at %d: %v", c, i, err)
			}
		}
		if _, err := form().Parse(text[:i]); !errors.Is(err, errPass) {
			t.Fatalf("cut off at %d: %v", i, err)
		}
	}
}

func encode(body string) string {
	sum := sha256.Sum256([]byte(body))
	return form().Prefix + base64.RawURLEncoding.EncodeToString(append([]byte(body), sum[:checksumBytes]...))
}

func TestParseRefuses(t *testing.T) {
	hex32, hex8 := strings.Repeat("ab", 32), strings.Repeat("cd", 8)
	good := `{"c":"east","a":["h:1"],"f":"` + hex32 + `","i":"` + hex8 + `","s":"` + hex32 + `","e":1}`
	if _, err := form().Parse(encode(good)); err != nil {
		t.Fatalf("the pattern itself: %v", err)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":       {"", "does not begin with"},
		"other":       {"eyJhbGciOi", "does not begin with"},
		"newer":       {strings.Replace(encode(good), "-1.", "-2.", 1), "does not begin with"},
		"long":        {encode(good) + strings.Repeat("A", maxText), "more than"},
		"no base64":   {form().Prefix + "%%%", "changed or cut off"},
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
		if _, err := form().Parse(tc.text); !errors.Is(err, errPass) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want one that says %q", name, err, tc.want)
		}
	}
}

// Whatever is taken for a pass is one that can be written again.
func FuzzParse(f *testing.F) {
	f.Add(form().Text(sample()))
	f.Add(form().Prefix)
	f.Add(encode(`{"c":"east"}`))
	f.Add(encode("null"))
	f.Fuzz(func(t *testing.T, text string) {
		for _, text := range []string{text, encode(text)} { // the checksum keeps nothing away
			inv, err := form().Parse(text)
			if err != nil {
				if !errors.Is(err, errPass) {
					t.Errorf("%q: %v", text, err)
				}
				continue
			}
			again, err := form().Parse(form().Text(inv))
			if err != nil || !cmp.Equal(inv, again) {
				t.Errorf("%q: %v, %s", text, err, cmp.Diff(inv, again))
			}
		}
	})
}
