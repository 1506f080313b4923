package join

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

const (
	// invitationPrefix tells a person, and us, what a line of text is.
	invitationPrefix = "causeway-invitation-1."
	// maxInvitation bounds the text, in bytes.
	maxInvitation = 4 << 10
	// MaxAddresses is by how many addresses a cluster may be said to be reached.
	MaxAddresses = 16

	idBytes       = 8
	secretBytes   = 32
	checksumBytes = 4
)

// ErrInvitation is returned, wrapped with what is wrong, for text that is no
// invitation.
var ErrInvitation = errors.New("not an invitation")

// Invitation is what one cluster gives to another, by any way that nobody else
// reads, so that it can join. It is good for one use.
type Invitation struct {
	// Cluster is the name of the cluster that invites.
	Cluster string
	// Addresses are host:port of its gateway, tried in their order.
	Addresses []string
	// Fingerprint is the SHA-256 of its authority's certificate, by which the
	// other side knows the gateway before it says the secret.
	Fingerprint [sha256.Size]byte
	// ID names the invitation where it was made, Secret proves it.
	ID     [idBytes]byte
	Secret [secretBytes]byte
	// Expires is the end of its time, to the second, by the clock of the
	// cluster that invites.
	Expires time.Time
}

// body is an Invitation as it is encoded.
type body struct {
	Cluster     string   `json:"c"`
	Addresses   []string `json:"a"`
	Fingerprint string   `json:"f"`
	ID          string   `json:"i"`
	Secret      string   `json:"s"`
	Expires     int64    `json:"e"`
}

// newInvitation draws id and secret.
func newInvitation(clusterName string, addresses []string, fingerprint [sha256.Size]byte, expires time.Time) Invitation {
	inv := Invitation{
		Cluster: clusterName, Addresses: addresses, Fingerprint: fingerprint, Expires: time.Unix(expires.Unix(), 0).UTC(),
	}
	_, _ = rand.Read(inv.ID[:]) // never fails
	_, _ = rand.Read(inv.Secret[:])
	return inv
}

// Text returns the line of text that ParseInvitation reads. It holds the secret.
func (i Invitation) Text() string {
	text, _ := json.Marshal(body{ // strings and a number always encode
		Cluster: i.Cluster, Addresses: i.Addresses, Fingerprint: hex.EncodeToString(i.Fingerprint[:]),
		ID: i.Name(), Secret: hex.EncodeToString(i.Secret[:]), Expires: i.Expires.Unix(),
	})
	sum := sha256.Sum256(text)
	return invitationPrefix + base64.RawURLEncoding.EncodeToString(append(text, sum[:checksumBytes]...))
}

// String is for logs and does not hold the secret.
func (i Invitation) String() string { return "invitation " + i.Name() + " of cluster " + i.Cluster }

// Name is the ID as people see it.
func (i Invitation) Name() string { return hex.EncodeToString(i.ID[:]) }

// ParseInvitation reads what Text returned; white space around it, as copying
// leaves it, does not matter. A text that was changed or cut off is noticed: that
// is against mistakes, since who can change it can also change the checksum. It
// does not look at the time. Errors wrap ErrInvitation and hold nothing of the text.
func ParseInvitation(text string) (Invitation, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxInvitation {
		return Invitation{}, fmt.Errorf("%w: it has %d characters, more than %d", ErrInvitation, len(text), maxInvitation)
	}
	encoded, ok := strings.CutPrefix(text, invitationPrefix)
	if !ok {
		return Invitation{}, fmt.Errorf("%w: it does not begin with %q: give the line that `causeway invite` printed", ErrInvitation, invitationPrefix)
	}
	changed := fmt.Errorf("%w: it was changed or cut off on its way: copy the whole line that `causeway invite` printed", ErrInvitation)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(raw) < checksumBytes {
		return Invitation{}, changed
	}
	raw, sum := raw[:len(raw)-checksumBytes], raw[len(raw)-checksumBytes:]
	if want := sha256.Sum256(raw); !bytes.Equal(sum, want[:checksumBytes]) {
		return Invitation{}, changed
	}
	var b body
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		return Invitation{}, fmt.Errorf("%w: it is of another version", ErrInvitation)
	}
	return b.invitation()
}

func (b body) invitation() (Invitation, error) {
	inv := Invitation{Cluster: b.Cluster, Addresses: b.Addresses, Expires: time.Unix(b.Expires, 0).UTC()}
	if err := cluster.ValidateName(b.Cluster); err != nil {
		return Invitation{}, fmt.Errorf("%w: %w", ErrInvitation, err)
	}
	if err := CheckAddresses(b.Addresses); err != nil {
		return Invitation{}, fmt.Errorf("%w: %w", ErrInvitation, err)
	}
	for _, field := range []struct {
		name, text string
		into       []byte
	}{{"fingerprint", b.Fingerprint, inv.Fingerprint[:]}, {"id", b.ID, inv.ID[:]}, {"secret", b.Secret, inv.Secret[:]}} {
		raw, err := hex.DecodeString(field.text)
		if err != nil || len(raw) != len(field.into) {
			return Invitation{}, fmt.Errorf("%w: its %s is not of %d bytes", ErrInvitation, field.name, len(field.into))
		}
		copy(field.into, raw)
	}
	return inv, nil
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
