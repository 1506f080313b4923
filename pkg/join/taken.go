package join

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

// problem is something that speaks against another cluster.
type problem struct {
	// text is for our own operators.
	text string
	// guest is for the other cluster, where it is not to hear what text says of a third
	// one; "" where it may.
	guest string
}

// said is for our own operators.
func said(problems []problem) string {
	var out []string
	for _, p := range problems {
		out = append(out, p.text)
	}
	return strings.Join(out, "; ")
}

// told is for the cluster that they speak against.
func told(problems []problem) string {
	var out []string
	for _, p := range problems {
		text := p.text
		if p.guest != "" {
			text = p.guest
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, "; ")
}

// takenError is for a cluster whose id or ranges another one got while it joined.
type takenError struct{ problems []problem }

func (e takenError) Error() string { return errTaken.Error() + ": " + said(e.problems) }

func (e takenError) Unwrap() error { return errTaken }

var errTaken = errors.New("another cluster joined meanwhile")

// judge returns what refuses a cluster whose id or claims another one of those that are
// there has.
func (m *Manager) judge(theirs Facts) func(map[string]member) error {
	return func(all map[string]member) error {
		if wrong := m.taken(theirs, all); len(wrong) > 0 {
			return takenError{wrong}
		}
		return nil
	}
}

// taken returns what another cluster has of theirs.
func (m *Manager) taken(theirs Facts, all map[string]member) (out []problem) {
	for _, text := range m.sameID(theirs.ID, theirs.Name, all) {
		out = append(out, problem{
			text: fmt.Sprintf("%s has the id %d, as has %s: every cluster of a mesh has an id of its own (--cluster-id)", theirs.Name, theirs.ID, text),
			guest: fmt.Sprintf("%s has the id %d, which another cluster has that %s knows: every cluster of a mesh has an id of its own (--cluster-id)",
				theirs.Name, theirs.ID, m.cfg.Cluster.Name),
		})
	}
	return append(out, m.unclaimable(theirs, all)...)
}

// sameID returns who else has an id, in words.
func (m *Manager) sameID(id cluster.ID, not string, all map[string]member) (out []string) {
	if id == 0 { // not known
		return nil
	}
	has, now := map[string]string{}, map[string]cluster.ID{}
	for _, p := range m.cfg.Peers() {
		if now[p.Name] = p.ID; p.ID == id {
			has[p.Name] = "is a peer of " + m.cfg.Cluster.Name
		}
	}
	for name, known := range all {
		switch {
		case known.Reader.issued() && known.Reader.ID == id:
			has[name] = "reads " + m.cfg.Cluster.Name
		case known.Reads != nil && known.Reads.ID == id && now[name] == 0: // else it may have another one by now
			has[name] = "is a peer of " + m.cfg.Cluster.Name
		}
	}
	delete(has, not)
	for _, name := range slices.Sorted(maps.Keys(has)) {
		out = append(out, name+", which "+has[name])
	}
	return out
}

// unclaimable returns which claims of another cluster are to what is reserved here, or
// another peer's. What that one was only seen to have counts, too: a claim keeps others
// out, so who joins would take it away. Whoever is about to be a peer, and is not
// followed yet, has what it said when it joined; so has every peer of which no file says
// what it may claim.
func (m *Manager) unclaimable(theirs Facts, all map[string]member) (out []problem) {
	for _, c := range theirs.Claims {
		if i := slices.IndexFunc(m.cfg.Reserved, c.Range.Overlaps); i >= 0 && (c.Class == trust.Pods || c.Class == trust.Mesh) {
			out = append(out, problem{text: fmt.Sprintf("%s of %s overlaps %s, which is reserved in %s (--reserved-cidr)",
				claimText(c), theirs.Name, m.cfg.Reserved[i], m.cfg.Cluster.Name)})
		}
	}
	has := m.claimed(all)
	delete(has, theirs.Name)
	for _, name := range slices.Sorted(maps.Keys(has)) {
		for _, d := range has[name] {
			if i := slices.IndexFunc(theirs.Claims, d.Contends); i >= 0 {
				out = append(out, problem{
					text: fmt.Sprintf("%s of %s overlaps %s, which %s", claimText(theirs.Claims[i]), theirs.Name, claimText(d), m.holds(name, d)),
					guest: fmt.Sprintf("%s of %s is taken: another cluster has it, or a part of it; the log of %s says which",
						claimText(theirs.Claims[i]), theirs.Name, m.cfg.Cluster.Name),
				})
				break // one is enough to see by
			}
		}
	}
	return out
}

// claimed returns what peers have, by name.
func (m *Manager) claimed(all map[string]member) map[string][]trust.Claim {
	has := map[string][]trust.Claim{}
	for name, known := range all {
		if known.Reads != nil {
			has[name] = known.Reads.Claims
		}
	}
	for name, belief := range m.cfg.Beliefs() {
		if belief.Declared { // by a file, which counts more than what it said
			has[name] = nil
		}
		has[name] = append(slices.Clone(belief.Claims), has[name]...)
	}
	return has
}

// holds says how it is that a peer has a range, and what can be done where that is
// wider than what it needs.
func (m *Manager) holds(name string, c trust.Claim) string {
	if c.Origin == trust.Observed || c.Origin == trust.Approved {
		return fmt.Sprintf("its peer %s uses; if that is wider than what %s has, say there what it has (`claims` in its peer file in %s, or --pod-cidr and --node-cidr and a new join)",
			name, name, m.cfg.Cluster.Name)
	}
	return fmt.Sprintf("%s has agreed with %s", m.cfg.Cluster.Name, name)
}

// knows says that an authority is one of those by which a peer that joined is known: of
// the day when it joined, or that it replaced them by since.
func (b *book) knows(name string, r *reading, fingerprint [sha256.Size]byte) bool {
	text := []byte(r.CA)
	if since, err := os.ReadFile(paths(b.files.peer(name)).CAFile); err == nil {
		text = bytes.Join([][]byte{text, since}, []byte("\n"))
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if sha256.Sum256(block.Bytes) == fingerprint {
			return true
		}
	}
	return false
}

// Fits says what of this cluster's own knowledge speaks against another one, which may be
// a peer already.
func (s *membership) Fits(ctx context.Context, r *joinpb.FitsRequest) (*joinpb.FitsResponse, error) {
	theirs, err := ParseFacts(r.GetFacts())
	if err == nil && len(r.GetFingerprint()) != sha256.Size {
		err = fmt.Errorf("a fingerprint has %d bytes", sha256.Size)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.checkName(theirs.Name); err != nil {
		return nil, err
	}
	known, _, _, err := s.book.current(ctx, theirs.Name)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "look for what is known of %s: %v", theirs.Name, err)
	}
	out := &joinpb.FitsResponse{}
	for _, p := range s.taken(theirs, s.book.all()) {
		out.Problems = append(out.Problems, p.text)
	}
	if text := s.another(theirs.Name, known.Reads, [sha256.Size]byte(r.GetFingerprint())); text != "" {
		out.Problems = append(out.Problems, text)
	}
	return out, nil
}

// another says that a cluster is not the one that is a peer by that name; "" when it may be.
func (m *Manager) another(name string, known *reading, fingerprint [sha256.Size]byte) string {
	if known == nil || m.book.knows(name, known, fingerprint) {
		return ""
	}
	was := "unreadable"
	if sum, _, err := stranger.Fingerprint([]byte(known.CA)); err == nil {
		was = hex.EncodeToString(sum[:8])
	}
	return fmt.Sprintf("%s is not the cluster that %s has as a peer of that name: its authority is %s, the peer's %s; "+
		"it was set up anew under the same name, or replaced its authority while %s was away; `causeway disconnect %s` in %s, then again",
		name, m.cfg.Cluster.Name, hex.EncodeToString(fingerprint[:8]), was, m.cfg.Cluster.Name, name, m.cfg.Cluster.Name)
}
