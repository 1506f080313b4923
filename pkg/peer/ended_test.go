package peer

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// pair writes a certificate of west's authority for us, and its key.
func (l *local) pair(west *remote, from, until time.Time) {
	l.t.Helper()
	keyPEM, csrPEM, err := pki.NewSigningRequest()
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("west.ca.crt", west.ca.CertPEM())
	l.write("west.key", keyPEM)
	l.write("west.crt", west.sign(csrPEM, from, until))
}

// peerFile writes the peer file of west, as a join does where it joined.
func (l *local) peerFile(west *remote, joined bool) {
	l.t.Helper()
	text := fmt.Appendf(nil, "endpoints: [https://%s]\ntrusted-ca-file: west.ca.crt\ncert-file: west.crt\nkey-file: west.key\n", west.address)
	if joined {
		text = append(text, "agreed: {since: 2026-01-02T03:04:05Z}\n"...)
	}
	l.write("west", text)
}

const invited = "the way back is a new invitation: `causeway invite --peer east` in west, then `causeway join` with it in east"

// Who was cut off for longer than its certificate lasts says so, and what the way back
// is; a new pair in place is enough, and what was said before is in use meanwhile.
func TestCertificateEndedMeanwhile(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	now := time.Now()
	l.pair(west, now.Add(-time.Minute), now.Add(time.Hour))
	l.peerFile(west, true)
	l.awaitState("west", Synced, "")
	west.stop()
	ends := now.Add(-time.Minute).UTC().Truncate(time.Second)
	l.pair(west, ends.Add(-time.Hour), ends)
	ended := "ended at " + ends.Format(time.RFC3339) + " by this cluster's clock"
	l.awaitState("west", Disconnected, ended)
	west.start() // which changes nothing: it is not asked with what has ended
	l.awaitState("west", Disconnected, invited)
	if got := l.nodes("west"); len(got) != 2 {
		t.Errorf("in use are %v", got)
	}

	l.stop()
	l.start() // nor does a new process
	l.awaitState("west", Connecting, ended)
	l.awaitState("west", Connecting, invited)
	west.node("n3")
	l.pair(west, now.Add(-time.Minute), now.Add(time.Hour))
	l.awaitState("west", Synced, "")
	l.awaitNodes("west", "n1", "n2", "n3")
}

// A clock that is wrong asks for no invitation, be it ours or the peer's.
func TestCertificateOutsideItsTime(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	now := time.Now()
	l.pair(west, now.Add(time.Hour), now.Add(2*time.Hour))
	l.peerFile(west, true)
	l.awaitState("west", Connecting, "check both clocks")

	west.stop()
	west.ahead = 2 * time.Hour
	west.start()
	l.pair(west, now.Add(-time.Minute), now.Add(time.Hour))
	l.awaitState("west", Connecting, "the peer takes our certificate for one outside its time")
}

// What the way back is depends on where the certificate came from.
func TestWayBack(t *testing.T) {
	t.Parallel()
	joined := File{Agreed: []trust.Claim{}}
	declared := File{TLS: pki.ClientFiles{CertFile: filepath.Join("peers", "west.crt")}}
	for want, got := range map[string]string{
		invited: wayBack(joined, "west", "east", false),
		"the way back is a new one from the peer's owner: `causeway join --etcd-config`": wayBack(joined, "west", "east", true),
		"have west sign a new one, and put it into peers/west.crt":                       wayBack(declared, "west", "east", false),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	cause := errors.New("refused")
	if err := error(endedError{cause: cause}); !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
}
