package join

import (
	"errors"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// outlive makes the pair by which a peer is read one that has ended, as it is after a cut
// that was longer than a certificate's life; at all replicas, so none gives it a better one.
func (r *replica) outlive(other *replica) {
	t, name := r.site.t, other.site.config.Name
	t.Helper()
	key, csr, err := pki.NewSigningRequest()
	check(t, err)
	chain, err := other.authority.Sign(pki.Request{Role: pki.RolePeer, Name: r.site.config.Name, TTL: time.Nanosecond}, csr)
	check(t, err, r.book.update(r.ctx(), name, func(m member) (member, error) {
		next := *m.Reads
		next.Cert, next.Key = string(chain), string(key)
		m.Reads = &next
		return m, nil
	}))
	eventually(t, func() error { // it is in effect before it is on disk
		if string(r.held(name).Pair.CertPEM) != string(chain) {
			return errors.New("the pair that has ended is not on disk")
		}
		return nil
	})
}

// Two clusters that were cut off from each other for longer than their certificates last
// say both that a new invitation is the way back, and it is, without a restart of the one
// that was not away.
func TestEndedMeanwhile(t *testing.T) {
	t.Parallel()
	west, east := newCluster(t, "west", 2), newCluster(t, "east", 1)
	_, err := east.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	east.awaitState("west", peer.Synced, "")
	west.awaitState("east", peer.Synced, "")

	east.outlive(west)
	west.outlive(east)
	west.stop()
	west.start()
	east.awaitState("west", peer.Disconnected, "`causeway invite --peer east` in west, then `causeway join` with it in east")
	west.awaitState("east", peer.Connecting, "`causeway invite --peer west` in east, then `causeway join` with it in west")
	_, err = east.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{Peer: "east"})})
	check(t, err)
	east.awaitState("west", peer.Synced, "")
	west.awaitState("east", peer.Synced, "")
}
