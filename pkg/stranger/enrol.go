package stranger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

// ErrAway is returned, wrapped, when it may be worth trying again.
var ErrAway = errors.New("not reached")

// errBusy is the ErrAway of a gateway that the right authority has certified.
var errBusy = fmt.Errorf("%w at present", ErrAway)

const (
	// lookTimeout bounds a look at one address.
	lookTimeout = 10 * time.Second
	// enrolTimeout is longer than a gateway lets the answer to a wrong secret wait.
	enrolTimeout = 75 * time.Second
)

// Enrol gets the certificate of an agent for a token, and writes it, its key, and
// the authority's where that is missing, to files. It can be repeated: the files hold
// the whole or nothing, and the key is the same. The error wraps ErrAway when no
// gateway could be asked, and ErrOther when all that answered are of another authority
// than the pass names, which is then of no use any more.
func Enrol(ctx context.Context, files pki.ClientFiles, p Pass) error {
	want := pki.Subject{Cluster: p.Cluster, Role: pki.RoleAgent, Name: p.Node}
	err := files.Obtain(want, func(csrPEM []byte) (chainPEM, authorityPEM []byte, err error) {
		err = atOne(p.Cluster, p.Addresses, func(address string) error {
			chainPEM, authorityPEM, err = enrolAt(ctx, address, p, csrPEM)
			return err
		})
		return chainPEM, authorityPEM, err
	})
	if errors.Is(err, ErrOther) {
		return fmt.Errorf("%w; make a new token with `causeway agent token %s`", err, p.Node)
	}
	return err
}

// atOne tries the gateways of a cluster until one answers, if it is of the right authority.
func atOne(name string, addresses []string, try func(address string) error) error {
	var away []string
	var other error
	right := false
	for _, address := range addresses {
		err := try(address)
		switch {
		case errors.Is(err, ErrOther):
			other = fmt.Errorf("%s: %w", address, err)
		case !errors.Is(err, ErrAway):
			return err
		case errors.Is(err, errBusy):
			right = true
		}
		away = append(away, fmt.Sprintf("%s: %v", address, err))
	}
	if other != nil && !right {
		return fmt.Errorf("cluster %s: %w", name, other)
	}
	return fmt.Errorf("cluster %s: %w: %s", name, ErrAway, strings.Join(away, "; "))
}

// enrolAt asks one gateway. Nothing is said to one of another authority.
func enrolAt(ctx context.Context, address string, p Pass, csrPEM []byte) (chainPEM, authorityPEM []byte, err error) {
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	authorityPEM, err = FetchAuthority(look, address, p.Cluster, p.Fingerprint, func(ctx context.Context, conn grpc.ClientConnInterface) ([]byte, error) {
		answer, err := strangerpb.NewEnrolmentClient(conn).Authority(ctx, &strangerpb.AuthorityRequest{})
		return answer.GetAuthority(), err
	})
	if errors.Is(err, ErrOther) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	chainPEM, err = askFor(ctx, address, p.Cluster, authorityPEM, &strangerpb.EnrolRequest{Id: p.ID[:], Secret: p.Secret[:], Request: csrPEM})
	return chainPEM, authorityPEM, err
}

// askFor tells a token to a gateway of the authority, and returns the certificate.
func askFor(ctx context.Context, address, name string, authorityPEM []byte, request *strangerpb.EnrolRequest) (chainPEM []byte, err error) {
	conn, err := Dial(address, name, authorityPEM)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	answer, err := strangerpb.NewEnrolmentClient(conn).Enrol(ctx, request)
	if err == nil {
		return answer.GetChain(), nil
	}
	text := Clean(status.Convert(err).Message())
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled:
		return nil, fmt.Errorf("%w: %s", errBusy, text)
	}
	return nil, fmt.Errorf("cluster %s gave no certificate: %s", name, text)
}
