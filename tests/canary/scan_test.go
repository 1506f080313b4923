// Package canary looks for keys and secrets in all that a mesh says: it knows those
// of a mesh that runs, has it say as much as it can, errors and stacks of a process
// that was broken off included, and searches that for each in every form in which it
// may have got there. It also looks at what keeps them out of core dumps.
package canary

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// forms are what a secret may look like in a text, by name.
func forms(secret []byte) map[string]string {
	out := map[string]string{
		"raw": string(secret), "hex": hex.EncodeToString(secret), "HEX": strings.ToUpper(hex.EncodeToString(secret)),
		"decimal": decimals(secret[:8]),
		"words":   new(big.Int).SetBytes(secret).String(),
	}
	var list []string
	for _, b := range secret[:8] { // as a stack shows arguments
		list = append(list, fmt.Sprintf("%#x", b))
	}
	out["stack"] = strings.Join(list, ", ")
	// At any place inside of something longer: the first and the last letters may
	// be of bytes beside it, too.
	for shift := range 3 {
		padded := append(make([]byte, shift), secret...)
		skip := []int{0, 2, 3}[shift]
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := encoding.EncodeToString(padded)
			out[fmt.Sprint(name, " at ", shift)] = text[skip : len(text)-3]
		}
	}
	return out
}

// decimals is how fmt writes bytes that it is given as a list.
func decimals(b []byte) string {
	var list []string
	for _, one := range b {
		list = append(list, fmt.Sprint(one))
	}
	return strings.Join(list, " ")
}

// keyForms are those of a private key, of which the scalar is the secret, and of the
// text that it is kept as.
func keyForms(key *ecdsa.PrivateKey) (map[string]string, error) {
	scalar, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	out := forms(scalar)
	out["DER"] = string(der)
	for i, line := range strings.Split(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), "\n") {
		// The first line is the same in all keys of a kind, the last may be short.
		if !strings.HasPrefix(line, "-----") && i > 1 && len(line) == 64 {
			out[fmt.Sprint("PEM line ", i)] = line
		}
	}
	return out, nil
}

// secrets are those that must not be seen: their forms by their names.
type secrets map[string]map[string]string

func (s secrets) add(name string, secret []byte) { s[name] = forms(secret) }

// scan returns what of them is in a text.
func (s secrets) scan(text []byte) (found []string) {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		for _, form := range slices.Sorted(maps.Keys(s[name])) {
			if bytes.Contains(text, []byte(s[name][form])) {
				found = append(found, name+" as "+form)
			}
		}
	}
	return found
}

// TestScan: what is planted is found, in each form, inside of other text, and nothing
// else is.
func TestScan(t *testing.T) {
	t.Parallel()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := secrets{}
	s.add("secret", secret)
	if s["key"], err = keyForms(key); err != nil {
		t.Fatal(err)
	}
	if n := len(s["key"]) - len(s["secret"]); n != 2 {
		t.Errorf("a key has %d forms more than a secret, want its DER and a line of PEM", n)
	}
	for name, all := range s {
		for form, text := range all {
			found := s.scan([]byte("level=INFO msg=\"" + text + "\" more"))
			if !slices.Contains(found, name+" as "+form) {
				t.Errorf("%s as %s is planted, found: %q", name, form, found)
			}
			if found := s.scan([]byte(text[:len(text)/2] + " " + text[len(text)/2:])); len(found) != 0 && !strings.HasPrefix(form, "DER") {
				t.Errorf("a broken %s is found: %q", form, found)
			}
		}
	}
	for shift := range 6 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), append(slices.Clone(secret), 1, 2, 3)...))
		if len(s.scan([]byte(text))) == 0 {
			t.Errorf("inside of base64 at %d it is not found", shift)
		}
	}
	if found := s.scan(fmt.Appendf(nil, "%d %x %q", secret, secret, base64.StdEncoding.EncodeToString(secret))); len(found) < 3 {
		t.Errorf("as fmt writes them only %q are found", found)
	}
}
