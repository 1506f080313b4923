package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestAddedReplica: a peer replaces its authority, so that nothing of the join is worth
// anything any more. A replica that is added then reads it all the same, as the cluster's
// record has what the first replica was given since; and so does that one, of which
// nothing is left but the record.
func TestAddedReplica(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	r, e2, etcd := newJoined(ctx, t)
	_, err := r.west.Causeway(ctx, "ca", "rotate")
	check(t, err, eventually(ctx, func() error {
		s, err := rotationOf(ctx, r.west)
		if err == nil && (s.Stage != "replacing" || len(s.Behind) > 0 || s.Holders == 0) {
			err = fmt.Errorf("%s: %v need the old authority", s.Stage, s.Behind)
		}
		return err
	}))
	_, err = r.west.Causeway(ctx, "ca", "rotate", "--finish")
	check(t, err)
	want := filepath.Join(r.west.DataDir(), "pki", "ca.crt")
	check(t, r.trusts(ctx, r.east.DataDir(), want))

	r.second = r.startSecond(ctx, e2, etcd)
	r.reads(ctx, r.second)
	check(t, r.trusts(ctx, filepath.Join(r.work, "second"), want))
	check(t, r.first.Kill(), os.RemoveAll(joinedDir(r.east.DataDir())), r.first.Again(ctx), r.east.AwaitReady(ctx))
	r.reads(ctx, r.first)
}

// TestRenewedWithoutEtcd: a gateway that is out of touch with its etcd goes on renewing
// peers' certificates, which last 15 s here.
func TestRenewedWithoutEtcd(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	r, _, _ := newJoined(ctx, t, "--peer-certificate-ttl", "15s")
	file := filepath.Join(joinedDir(r.west.DataDir()), "east.crt")
	before, err := os.ReadFile(file)
	check(t, err, r.store.Pause(ctx))
	check(t, eventually(ctx, func() error {
		now, err := os.ReadFile(file)
		if err == nil && string(now) == string(before) {
			err = errors.New("west has the certificate of before")
		}
		return err
	}))
	check(t, r.store.Resume(), r.east.AwaitReady(ctx))
}

// newJoined starts east with an etcd on its second node, and west, which join by an
// invitation. Flags are of east's API server.
func newJoined(ctx context.Context, t *testing.T, flags ...string) (r *replicas, e2 *lab.Node, etcd []string) {
	t.Helper()
	r = newClusters(t)
	for _, c := range []*lab.Cluster{r.east, r.west} { // nobody is declared
		check(t, os.MkdirAll(c.PeersDir(), 0o755))
	}
	_, err := r.west.StartAPIServer(ctx)
	check(t, err, r.west.AwaitReady(ctx))
	e2, err = r.east.Node("e2")
	check(t, err)
	etcd = r.startEtcd(ctx, e2)
	r.first, err = r.east.StartAPIServer(ctx, append(flags, etcd...)...)
	check(t, err, r.east.AwaitReady(ctx))
	invitation, err := r.west.Causeway(ctx, "invite")
	check(t, err)
	_, err = r.east.Causeway(ctx, "join", strings.TrimSpace(string(invitation)))
	check(t, err)
	r.reads(ctx, r.first)
	return r, e2, etcd
}

func joinedDir(data string) string { return filepath.Join(data, "joined") }

// reads waits until a replica follows west.
func (r *replicas) reads(ctx context.Context, p *lab.Process) {
	r.t.Helper()
	check(r.t, r.shows(ctx, p, `causeway_peer_synced{cluster="west"} 1`))
}

// trusts waits until a replica trusts one authority of west, which is in a file.
func (r *replicas) trusts(ctx context.Context, data, want string) error {
	return eventually(ctx, func() error {
		now, err := os.ReadFile(filepath.Join(joinedDir(data), "west.ca.crt"))
		if err != nil {
			return err
		}
		authority, err := os.ReadFile(want)
		if err == nil && string(now) != string(authority) {
			err = fmt.Errorf("%s trusts another authority of west, or more", data)
		}
		return err
	})
}
