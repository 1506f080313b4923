package stranger

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

const (
	// maxText bounds the text of a pass, in bytes.
	maxText = 4 << 10
	// MaxAddresses is by how many addresses a cluster may be said to be reached.
	MaxAddresses = 16

	// IDBytes and SecretBytes are the lengths of a pass's ID and Secret.
	IDBytes       = 8
	SecretBytes   = 32
	checksumBytes = 4
)

// Pass is what a cluster gives to one that has no certificate of its, by any way
// that nobody else reads. It is good for one use.
type Pass struct {
	// Cluster is the name of the cluster that made it.
	Cluster string
	// Addresses are host:port of its gateway, tried in their order.
	Addresses []string
	// Fingerprint is the SHA-256 of its authority's certificate, by which the
	// other side knows the gateway before it says the secret.
	Fingerprint [sha256.Size]byte
	// ID names the pass where it was made, Secret proves it.
	ID     [IDBytes]byte
	Secret [SecretBytes]byte
	// Node is whose agent it is for; "" for other clusters.
	Node string
	// Expires is the end of its time, to the second, by the clock of the
	// cluster that made it.
	Expires time.Time
}

// NewPass draws id and secret.
func NewPass(clusterName string, addresses []string, fingerprint [sha256.Size]byte, expires time.Time) Pass {
	p := Pass{
		Cluster: clusterName, Addresses: addresses, Fingerprint: fingerprint, Expires: time.Unix(expires.Unix(), 0).UTC(),
	}
	_, _ = rand.Read(p.ID[:]) // never fails
	_, _ = rand.Read(p.Secret[:])
	return p
}

// Name is the ID as people see it.
func (p Pass) Name() string { return hex.EncodeToString(p.ID[:]) }

// Form is how a kind of pass is written.
type Form struct {
	// Prefix tells a person, and us, what a line of text is. It ends in the
	// version and a dot.
	Prefix string
	// Command is what prints such a line.
	Command string
	// Err is returned, wrapped with what is wrong, for text that is none.
	Err error
}

// body is a Pass as it is encoded.
type body struct {
	Cluster     string   `json:"c"`
	Addresses   []string `json:"a"`
	Fingerprint string   `json:"f"`
	ID          string   `json:"i"`
	Secret      string   `json:"s"`
	Node        string   `json:"n,omitempty"`
	Expires     int64    `json:"e"`
}

// Text returns the line of text that Parse reads. It holds the secret.
func (f Form) Text(p Pass) string {
	text, _ := json.Marshal(body{ // strings and a number always encode
		Cluster: p.Cluster, Addresses: p.Addresses, Fingerprint: hex.EncodeToString(p.Fingerprint[:]),
		ID: p.Name(), Secret: hex.EncodeToString(p.Secret[:]), Node: p.Node, Expires: p.Expires.Unix(),
	})
	sum := sha256.Sum256(text)
	return f.Prefix + base64.RawURLEncoding.EncodeToString(append(text, sum[:checksumBytes]...))
}

// Parse reads what Text returned; white space around it, as copying leaves it, does
// not matter. A text that was changed or cut off is noticed: that is against
// mistakes, since who can change it can also change the checksum. It does not look
// at the time. Errors wrap Err and hold nothing of the text.
func (f Form) Parse(text string) (Pass, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxText {
		return Pass{}, fmt.Errorf("%w: it has %d characters, more than %d", f.Err, len(text), maxText)
	}
	encoded, ok := strings.CutPrefix(text, f.Prefix)
	if !ok {
		return Pass{}, fmt.Errorf("%w: it does not begin with %q: give the line that `%s` printed", f.Err, f.Prefix, f.Command)
	}
	changed := fmt.Errorf("%w: it was changed or cut off on its way: copy the whole line that `%s` printed", f.Err, f.Command)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) < checksumBytes {
		return Pass{}, changed
	}
	raw, sum := raw[:len(raw)-checksumBytes], raw[len(raw)-checksumBytes:]
	if want := sha256.Sum256(raw); !bytes.Equal(sum, want[:checksumBytes]) {
		return Pass{}, changed
	}
	var b body
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		return Pass{}, fmt.Errorf("%w: it is of another version", f.Err)
	}
	p, err := b.pass()
	if err != nil {
		return Pass{}, fmt.Errorf("%w: %w", f.Err, err)
	}
	return p, nil
}

func (b body) pass() (Pass, error) {
	p := Pass{Cluster: b.Cluster, Addresses: b.Addresses, Node: b.Node, Expires: time.Unix(b.Expires, 0).UTC()}
	if err := cluster.ValidateName(b.Cluster); err != nil {
		return Pass{}, err
	}
	if err := CheckAddresses(b.Addresses); err != nil {
		return Pass{}, err
	}
	for _, field := range []struct {
		name, text string
		into       []byte
	}{{"fingerprint", b.Fingerprint, p.Fingerprint[:]}, {"id", b.ID, p.ID[:]}, {"secret", b.Secret, p.Secret[:]}} {
		raw, err := hex.DecodeString(field.text)
		if err != nil || len(raw) != len(field.into) {
			return Pass{}, fmt.Errorf("its %s is not of %d bytes", field.name, len(field.into))
		}
		copy(field.into, raw)
	}
	return p, nil
}

// CheckAddresses refuses a list of gateways' addresses that is empty, too long,
// or holds what is not host:port.
func CheckAddresses(addresses []string) error {
	if len(addresses) == 0 || len(addresses) > MaxAddresses {
		return fmt.Errorf("%d addresses, must be 1 to %d", len(addresses), MaxAddresses)
	}
	for _, a := range addresses {
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	return nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || len(address) > 260 {
		return fmt.Errorf("%.300q is not host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q: port %q is not a number from 1 to 65535", address, port)
	}
	allowed := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || slices.Contains([]rune("-._:%"), r)
	}
	if strings.ContainsFunc(host, func(r rune) bool { return !allowed(r) }) {
		return fmt.Errorf("%q is not host:port", address)
	}
	return nil
}
