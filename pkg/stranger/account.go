package stranger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

// Audience is what a service account's token must be for: nothing else takes such a
// token, and no other one gets a certificate.
const Audience = "causeway"

// Account is how an agent in a pod gets its first certificate.
type Account struct {
	// Cluster and Node are the names of its cluster and its node.
	Cluster, Node string
	// Addresses are host:port of the cluster's gateways, tried in their order.
	Addresses []string
	// AuthorityFile holds the cluster's authority, one or more certificates.
	AuthorityFile string
	// Token is what Kubernetes gave to the pod for [Audience].
	Token string
}

// EnrolAccount gets the certificate of an agent for its pod's token, as Enrol does
// for a pass. The token is told to nobody but a gateway that the authority certified:
// that of AuthorityFile, or one that has replaced it since, as files.CAFile knows. The
// error wraps ErrAway when no gateway could be asked.
func EnrolAccount(ctx context.Context, files pki.ClientFiles, a Account) error {
	trusted, err := a.trusted(files.CAFile)
	if err != nil {
		return err
	}
	want := pki.Subject{Cluster: a.Cluster, Role: pki.RoleAgent, Name: a.Node}
	return files.Obtain(want, func(csrPEM []byte) (chainPEM, authorityPEM []byte, err error) {
		err = atOne(a.Cluster, a.Addresses, func(address string) error {
			chainPEM, authorityPEM, err = a.enrolAt(ctx, address, trusted, csrPEM)
			return err
		})
		return chainPEM, authorityPEM, err
	})
}

func (a Account) trusted(known string) ([]byte, error) {
	given, err := os.ReadFile(a.AuthorityFile)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	if _, _, err := CheckAuthority(a.Cluster, given); err != nil {
		return nil, fmt.Errorf("%s: %w", a.AuthorityFile, err)
	}
	later, err := os.ReadFile(known)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read trusted certificates: %w", err)
	}
	return slices.Concat(given, []byte("\n"), later), nil
}

// enrolAt asks one gateway. It is asked for the authority, too, of which the file may
// have several while one replaces another.
func (a Account) enrolAt(ctx context.Context, address string, trusted, csrPEM []byte) (chainPEM, authorityPEM []byte, err error) {
	authorityPEM, err = a.authority(ctx, address, trusted)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	chainPEM, err = askFor(ctx, address, a.Cluster, trusted, &strangerpb.EnrolRequest{ServiceAccountToken: a.Token, Node: a.Node, Request: csrPEM})
	return chainPEM, authorityPEM, err
}

func (a Account) authority(ctx context.Context, address string, trusted []byte) ([]byte, error) {
	conn, err := Dial(address, a.Cluster, trusted)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	answer, err := strangerpb.NewEnrolmentClient(conn).Authority(ctx, &strangerpb.AuthorityRequest{})
	if err != nil {
		return nil, errors.New(Clean(status.Convert(err).Message()))
	}
	authority, _, err := CheckAuthority(a.Cluster, answer.GetAuthority())
	return authority, err
}
