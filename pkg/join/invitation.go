package join

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/causeway-mesh/causeway/pkg/stranger"
)

// MaxAddresses is by how many addresses a cluster may be said to be reached.
const MaxAddresses = stranger.MaxAddresses

// ErrInvitation is returned, wrapped with what is wrong, for text that is no
// invitation.
var ErrInvitation = errors.New("not an invitation")

// Invitation is what one cluster gives to another, by any way that nobody else
// reads, so that it can join. It is good for one use.
type Invitation struct{ stranger.Pass }

func form() stranger.Form {
	return stranger.Form{Prefix: "causeway-invitation-1.", Command: "causeway invite", Err: ErrInvitation}
}

// newInvitation draws id and secret.
func newInvitation(clusterName string, addresses []string, fingerprint [sha256.Size]byte, expires time.Time) Invitation {
	return Invitation{stranger.NewPass(clusterName, addresses, fingerprint, expires)}
}

// Text returns the line of text that ParseInvitation reads. It holds the secret.
func (i Invitation) Text() string { return form().Text(i.Pass) }

// String is for logs and does not hold the secret.
func (i Invitation) String() string { return "invitation " + i.Name() + " of cluster " + i.Cluster }

// ParseInvitation reads what Text returned; see stranger.Form. Errors wrap
// ErrInvitation.
func ParseInvitation(text string) (Invitation, error) {
	pass, err := form().Parse(text)
	return Invitation{pass}, err
}

// CheckAddresses refuses a list of gateways' addresses that is empty, too long,
// or holds what is not host:port.
func CheckAddresses(addresses []string) error { return stranger.CheckAddresses(addresses) }
