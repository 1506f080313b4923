package join

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// issuedTTL is how long a certificate is valid that is handed out with its key, to
// those that can not renew it.
const issuedTTL = 365 * 24 * time.Hour

// Issue makes what a cluster needs to read this one that can not join, as those that
// run Cilium: the key, too, which is kept nowhere here.
func (s *membership) Issue(ctx context.Context, r *joinpb.IssueRequest) (*joinpb.IssueResponse, error) {
	name, id := r.GetName(), cluster.ID(r.GetId())
	if err := s.checkName(name); err != nil {
		return nil, err
	}
	addresses := r.GetAddresses()
	if len(addresses) == 0 {
		addresses = s.cfg.Addresses()
	}
	if err := CheckAddresses(addresses); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "where others reach this cluster: %v; give --address", err)
	}
	known, _, _, err := s.book.current(ctx, name)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "look for what is known of %s: %v", name, err)
	}
	if r.GetRenew() && known.Reader.issued() {
		id = known.Reader.ID
	}
	if err := s.issuable(name, id, known, r.GetRenew()); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	out := &joinpb.IssueResponse{Cluster: s.cfg.Cluster.Name, Addresses: addresses, Ca: s.cfg.Authority.CertPEM()}
	var request []byte
	if out.Key, request, err = pki.NewSigningRequest(); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if out.Cert, err = s.signFor(ctx, name, known.Out, issuedTTL, request); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	ends, err := endOf(out.Cert)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	_, root, _ := s.cfg.Authority.SignerOf(out.Cert) // it has signed it a moment ago
	err = s.keepReader(ctx, name, known, reader{Ends: ends, ID: id, Root: root[:]})
	if errors.Is(err, errTaken) || errors.Is(err, errPutOut) || errors.Is(err, errOvertaken) {
		return nil, status.Errorf(codes.FailedPrecondition, "%s gets no certificate: %v", name, err)
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "that %s reads this cluster can not be kept: %v", name, err)
	}
	out.Ends = timestamppb.New(ends)
	s.log.Info("certificate with its key is issued", "cluster", name, "ends", ends)
	return out, nil
}

// Issued is a pair that was made for a cluster which can not ask for one.
type Issued struct {
	Name        string
	Since, Ends time.Time
	Root        [sha256.Size]byte // its authority's fingerprint, zero where that was not kept
}

// Issued returns those that have not ended, the last one of each cluster.
func (m *Manager) Issued() (out []Issued) {
	for name, known := range m.book.all() {
		if !known.Reader.issued() || time.Now().After(known.Reader.Ends) {
			continue
		}
		one := Issued{Name: name, Since: known.Reader.Since, Ends: known.Reader.Ends}
		copy(one.Root[:], known.Reader.Root)
		out = append(out, one)
	}
	return out
}

// issuable returns why a cluster can not have a certificate with its key.
func (m *Manager) issuable(name string, id cluster.ID, known member, renew bool) error {
	if renew {
		if !known.Reader.issued() {
			return fmt.Errorf("%s has no certificate that was issued here with its key; what joined renews its own: `causeway invite --for-cilium` makes the first", name)
		}
		return nil
	}
	if err := m.cfg.Cluster.Size.ValidateID(id); err != nil {
		return err
	}
	switch {
	case known.Reader.issued():
		return fmt.Errorf("%s has a certificate until %s: `causeway peers renew %s` makes another one, `causeway disconnect %s` ends it",
			name, known.Reader.Ends.UTC().Format(time.RFC3339), name, name)
	case known.Reader != nil, known.Reads != nil && !known.Reads.OneWay:
		return fmt.Errorf("%s joined by an invitation, and renews its certificate itself; `causeway disconnect %s` first", name, name)
	case id == m.cfg.Cluster.ID:
		return fmt.Errorf("%s and %s both have the id %d: every cluster of a mesh has an id of its own", m.cfg.Cluster.Name, name, id)
	}
	return m.idTaken(name, id)
}

// idTaken refuses an id that another peer or reader has.
func (m *Manager) idTaken(name string, id cluster.ID) error {
	if p, ok := m.peer(name); ok && p.ID != 0 && p.ID != id {
		return fmt.Errorf("%s, which is a peer of %s, has the id %d, not %d", name, m.cfg.Cluster.Name, p.ID, id)
	}
	if has := m.sameID(id, name, m.book.all()); len(has) > 0 {
		return fmt.Errorf("%s, and has the id %d: every cluster of a mesh has an id of its own", has[0], id)
	}
	return nil
}

// keepReader keeps that another cluster may read this one, unless since known was read it
// was put out, or another one got its name.
func (m *Manager) keepReader(ctx context.Context, name string, known member, r reader) error {
	r.Since = time.Now().UTC().Truncate(time.Second)
	return m.book.admit(ctx, name, m.judge(Facts{Name: name, ID: r.ID}), func(old member) (member, error) {
		if !old.Out.Equal(known.Out) {
			return old, errPutOut
		}
		if has, had := old.Reader, known.Reader; has != nil && (r.Invitation == "" || has.Invitation != r.Invitation) &&
			(had == nil || !had.Ends.Equal(has.Ends) || had.Invitation != has.Invitation) {
			return old, errOvertaken
		}
		old.Reader = &r
		return old, nil
	})
}

// endOf returns when the first certificate of a chain ends.
func endOf(chain []byte) (time.Time, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}, errors.New("no certificate in PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotAfter.UTC(), nil
}
