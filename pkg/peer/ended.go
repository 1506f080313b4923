package peer

import (
	"fmt"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// endedError says that the certificate by which a peer is read has ended, and the way to
// a new one: it is renewed by what shows it, which nobody takes any more. The text holds
// no present time, so it is the same at each try.
type endedError struct {
	ends  time.Time
	way   string
	cause error
}

func (e endedError) Error() string {
	return fmt.Sprintf("our certificate for the peer ended at %s by this cluster's clock, so it can not be renewed any more; if the clock is right, %s",
		e.ends.UTC().Format(time.RFC3339), e.way)
}

func (e endedError) Unwrap() error { return e.cause }

// expiredAlert is how TLS names the other side's word for a certificate outside its time;
// gRPC passes on no more than the text.
const expiredAlert = "tls: expired certificate"

// explain says more of what keeps the peer from being read where that is our certificate's
// time: of one that has ended nothing else counts. It reads the certificate's file.
func (s *session) explain(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	file := s.file
	s.mu.Unlock()
	cert, unreadable := file.TLS.Certificate()
	if unreadable != nil { // who dials says so
		return err
	}
	if time.Now().After(cert.NotAfter) {
		_, notOurs := pki.SubjectOf(cert)
		return endedError{ends: cert.NotAfter, way: wayBack(file, s.name, s.ours.Name, notOurs != nil), cause: err}
	}
	if strings.Contains(err.Error(), expiredAlert) {
		return fmt.Errorf("the peer takes our certificate for one outside its time, which is %s to %s: check both clocks: %w",
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339), err)
	}
	return err
}

// wayBack says how a peer gets to be read again. foreign is a certificate that was not
// made by a cluster of this mesh's software.
func wayBack(file File, peer, ours string, foreign bool) string {
	switch {
	case file.Agreed == nil:
		return fmt.Sprintf("have %s sign a new one, and put it into %s", peer, file.TLS.CertFile)
	case foreign:
		return "the way back is a new one from the peer's owner: `causeway join --etcd-config`"
	}
	return fmt.Sprintf("the way back is a new invitation: `causeway invite --peer %s` in %s, then `causeway join` with it in %s", ours, peer, ours)
}
