package renewal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal/renewalpb"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

// followed answers what a holder asks of the authorities.
func (b *bed) followed(_ context.Context, r *rotationpb.TrustRequest, reply *rotationpb.TrustResponse) error {
	if b.trust == nil {
		return status.Error(codes.Unimplemented, "unknown service")
	}
	answer, err := b.trust(r)
	if err == nil {
		reply.Authorities, reply.Renew = answer.Authorities, answer.Renew
	}
	return err
}

// away gives the bed's files a copy of what is trusted, as on another machine.
func (b *bed) away(dir string) {
	b.files.CAFile = filepath.Join(dir, "trusted.crt")
	must(b.t, os.WriteFile(b.files.CAFile, b.authority.CertPEM(), 0o644))
}

// What the gateway says of its authorities is in the file before a certificate of
// the new one is asked for.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		b.away(dir)
		old := b.certificate()
		must(t, b.authority.Begin())
		must(t, b.authority.Replace())
		b.trust = func(r *rotationpb.TrustRequest) (*rotationpb.TrustResponse, error) {
			_, by, ok := b.authority.SignerOf(r.GetChain())
			return &rotationpb.TrustResponse{
				Authorities: b.authority.Bundle(),
				Renew:       !ok || by != b.authority.Roots()[len(b.authority.Roots())-1].Fingerprint,
			}, nil
		}
		k := b.keep(nil)
		at(time.Minute)
		trusted, by, err := b.files.Trusted()
		if err != nil || len(trusted) != 2 || by != b.authority.Roots()[1].Fingerprint {
			t.Errorf("%d authorities, %v", len(trusted), err)
		}
		if b.certificate().Equal(old) || b.attempts("ok") != 1 || !k.Standing().Ends.Equal(b.certificate().NotAfter) {
			t.Errorf("renewed %v times: %+v", b.attempts("ok"), k.Standing())
		}
		must(t, b.authority.Finish())
		at(time.Minute)
		if trusted, _, _ := b.files.Trusted(); len(trusted) != 1 || trusted[0] != b.authority.Roots()[0].Fingerprint {
			t.Error("the old authority is trusted")
		}
		if b.attempts("ok") != 1 {
			t.Error("renewed again")
		}
	})
}

// Authorities that can not be the cluster's are not believed, and it is asked again,
// not all the time.
func TestFollowRefuses(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		b.away(dir)
		evil, err := pki.OpenAuthority(filepath.Join(dir, "evil"), "east")
		must(t, err)
		asked := 0
		b.trust = func(*rotationpb.TrustRequest) (*rotationpb.TrustResponse, error) {
			asked++
			return &rotationpb.TrustResponse{Authorities: evil.CertPEM(), Renew: true}, nil
		}
		before, err := os.ReadFile(b.files.CAFile)
		must(t, err)
		b.keep(nil)
		at(time.Hour)
		after, err := os.ReadFile(b.files.CAFile)
		must(t, err)
		if !bytes.Equal(before, after) || b.asked() > 1 { // the report
			t.Error("it was believed")
		}
		if asked < 3 || asked > 100 {
			t.Errorf("asked %d times in an hour", asked)
		}
	})
}

// A gateway that always wants a new certificate does not get as many as it can sign: each
// is written to disk and to etcd. After a while without it is followed at once again.
func TestFollowPaced(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		asked, changed := 0, 0
		b.trust = func(*rotationpb.TrustRequest) (*rotationpb.TrustResponse, error) {
			asked++
			if asked > 200 { // what is not paced ends here, and not never
				return nil, status.Error(codes.PermissionDenied, "may not call")
			}
			return &rotationpb.TrustResponse{Authorities: b.authority.Bundle(), Renew: true}, nil
		}
		b.keep(func(cfg *KeeperConfig) { cfg.Changed = func() { b.set(func() { changed++ }) } })
		at(time.Hour)
		b.set(func() {
			if n := b.attempts("ok"); n < freeChanges || n > 3*freeChanges || changed != int(n) {
				t.Errorf("renewed %v times in an hour, told %d times", n, changed)
			}
		})
		var p pace
		for range freeChanges {
			if wait := p.next(time.Now()); wait != 0 {
				t.Errorf("waits %v at first", wait)
			}
		}
		if p.next(time.Now()) == 0 {
			t.Error("is never slower")
		}
		at(3 * maxRetry)
		if wait := p.next(time.Now()); wait != 0 {
			t.Errorf("waits %v after a quiet time", wait)
		}
	})
}

// A gateway that is older does not say which authorities there are.
func TestFollowNotOffered(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		asked := 0
		b.trust = func(*rotationpb.TrustRequest) (*rotationpb.TrustResponse, error) {
			asked++
			return nil, status.Error(codes.PermissionDenied, "may not call")
		}
		k := b.keep(nil)
		at(time.Hour)
		if s := k.Standing(); s.Problem != "" || asked > 7 {
			t.Errorf("asked %d times: %+v", asked, s)
		}
	})
}

// Who does not say that it trusts the new authority gets no certificate of it.
func TestRenewForThoseWhoDoNotFollow(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, agent(), time.Hour)
	b.away(dir)
	must(t, b.authority.Begin())
	must(t, b.authority.Replace())
	k := NewKeeper(KeeperConfig{Files: b.files, Cluster: "east", Metrics: b.metrics})
	_, err := b.files.RenewEarly(time.Now(), k.ask(t.Context(), renewalpb.NewRenewalClient(b)))
	must(t, err)
	if _, by, err := b.files.Trusted(); err != nil || by != b.authority.Roots()[0].Fingerprint {
		t.Errorf("it is of the new authority: %v", err)
	}
	if prints([][]byte{{1}, make([]byte, 32)})[0] != [32]byte{} {
		t.Error("what is no SHA-256 counts")
	}
	if _, err := b.files.Trust("west", b.authority.Bundle()); !errors.Is(err, pki.ErrWrongCluster) {
		t.Error(err)
	}
}

// Who trusts more than can be told is told so here, and nobody is asked.
func TestFollowTooMany(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, agent(), time.Hour)
	b.away(dir)
	must(t, os.WriteFile(b.files.CAFile, bytes.Repeat(b.authority.CertPEM(), maxTrusted+1), 0o644))
	k := NewKeeper(KeeperConfig{Files: b.files, Cluster: "east", Metrics: b.metrics})
	_, err := k.followOnce(t.Context(), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "holds 65 certificates, more than 64") {
		t.Errorf("got %v", err)
	}
}
