package rotation

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// restart ends what runs, waits, and starts another process, to which nobody is
// connected yet.
func (b *bed) restart(away time.Duration, between func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	synctest.Wait()
	cancel()
	must(b.t, <-done)
	between()
	time.Sleep(away)
	clear(b.conns)
	authority, err := pki.OpenAuthority(b.dir, "east")
	must(b.t, err)
	b.authority = authority
	b.Manager = b.manager(false)
	b.run()
	synctest.Wait()
}

func (b *bed) stage() pki.Stage {
	stage, _ := b.authority.Stage()
	return stage
}

// Who was never seen can come for ten minutes, however long the API server was down.
func TestSettlesWhileListening(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir)
		b.start()
		b.listening = make(chan struct{})
		b.restart(2*settle, func() {})
		time.Sleep(2 * settle) // what comes before the gateway takes its time, too
		if b.stage() != pki.Replacing {
			t.Fatal("it has ended before anybody could come")
		}
		close(b.listening)
		synctest.Wait()
		time.Sleep(settle - 2*lookEvery)
		if left := time.Until(b.status().GetEndsAfter().AsTime()); b.stage() != pki.Replacing || left <= 0 || left > 2*lookEvery {
			t.Errorf("it is in %q, and ends in %s", b.stage(), left)
		}
		time.Sleep(4 * lookEvery)
		if b.stage() != pki.Single {
			t.Error("it has not ended")
		}
		time.Sleep(2 * farewell)
	})
}

// Holders that were forgotten are not cut off but by a person, whatever starts until
// then; the next replacement is like any other.
func TestLedgerLost(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"missing": os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, dir)
			b.holder(pki.RoleAgent, "away")
			b.start()
			b.restart(0, func() { must(t, lose(filepath.Join(dir, "holders.json"))) })
			if got := b.status().GetByHand(); !strings.Contains(got, "holders.json") {
				t.Errorf("%s: status %q", name, got)
			}
			b.restart(time.Second, func() {})
			time.Sleep(3 * settle)
			if b.stage() != pki.Replacing {
				t.Fatalf("%s: it has ended", name)
			}
			_, err := b.finish(false)
			must(t, err)
			b.start()
			time.Sleep(2 * settle)
			if b.stage() != pki.Single {
				t.Errorf("%s: the next one has not ended", name)
			}
		})
	}
}

// Replicas do not know of each other's callers.
func TestSharedEndsByHand(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir)
		b.Manager = b.manager(true)
		must(t, b.authority.Begin())
		b.run()
		time.Sleep(3 * settle)
		if b.stage() != pki.Replacing || b.status().GetByHand() == "" {
			t.Errorf("it is in %q: %v", b.stage(), b.status())
		}
		_, err := b.finish(false)
		must(t, err)
		time.Sleep(2 * farewell)
	})
}

// A replacement that begins right after another one cuts nobody off who follows.
func TestAgainAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir)
		n1 := b.holder(pki.RoleAgent, "n1")
		b.run()
		b.start()
		synctest.Wait()
		n1.follow()
		_, err := b.finish(false)
		must(t, err)
		b.start()
		synctest.Wait()
		time.Sleep(2 * farewell)
		if len(b.cut) != 0 {
			t.Errorf("cut off: %v", b.cut)
		}
	})
}

// A holder that shows ever new certificates fills nothing, and pushes nobody out.
func TestManyOfOne(t *testing.T) {
	b := newBed(t, t.TempDir())
	b.holder(pki.RoleAgent, "n1")
	now := time.Now()
	for i := range 2 * maxHoldings {
		at := now.Add(time.Duration(i) * time.Second)
		cert := &x509.Certificate{Raw: []byte{byte(i)}, NotBefore: at, NotAfter: at.Add(time.Hour)}
		b.ledger.put(cert, holdingOf(pki.Subject{Role: pki.RolePeer, Name: "west"}, cert, b.newest(), at))
	}
	all := b.ledger.list()
	if len(all) != maxHoldings+1 || b.ledger.holders() != 2 {
		t.Errorf("%d of %d holders", len(all), b.ledger.holders())
	}
	for _, h := range all {
		if h.Role == pki.RolePeer && h.Seen.Before(now.Add(maxHoldings*time.Second)) {
			t.Errorf("one that was seen at %s is kept", h.Seen)
		}
	}
}

// What could not be written is written by the next try.
func TestSaveAgain(t *testing.T) {
	b := newBed(t, t.TempDir())
	b.holder(pki.RolePeer, "west")
	path := b.ledger.path
	b.ledger.path = filepath.Join(b.dir, "none", "holders.json")
	if err := b.ledger.save(); err == nil {
		t.Fatal("it is written")
	}
	b.ledger.path = path
	must(t, b.ledger.save())
	if openLedger(path, true, b.log).holders() != 1 {
		t.Error("it is not written")
	}
}
