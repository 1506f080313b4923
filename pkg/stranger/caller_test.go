package stranger

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

func TestCallerAddress(t *testing.T) {
	at := func(a net.Addr) netip.Addr { return CallerAddress(peer.NewContext(t.Context(), &peer.Peer{Addr: a})) }
	if got := at(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}); got.Unmap() != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("address %s", got)
	}
	if got := at(&net.UnixAddr{Name: "socket"}); got.IsValid() {
		t.Errorf("address %s of a socket", got)
	}
	if got := CallerAddress(t.Context()); got.IsValid() {
		t.Errorf("address %s of nobody", got)
	}
}

// FuzzEnrolRequest takes what anybody may ask a first certificate with. Whatever is
// signed is for a key that KeyOf tells from others.
func FuzzEnrolRequest(f *testing.F) {
	_, request, err := pki.NewSigningRequest()
	if err != nil {
		f.Fatal(err)
	}
	authority, err := pki.OpenAuthority(f.TempDir(), "east")
	if err != nil {
		f.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	other, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		f.Fatal(err)
	}
	good, err := proto.Marshal(&strangerpb.EnrolRequest{Id: []byte("12345678"), Secret: make([]byte, 32), Request: request})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(request)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: other}))
	f.Add(append([]byte("-----BEGIN NOTHING-----\n-----END NOTHING-----\n"), request...))
	f.Fuzz(func(t *testing.T, data []byte) {
		csr := data // as it is, or in a message
		if r := new(strangerpb.EnrolRequest); proto.Unmarshal(data, r) == nil && len(r.GetRequest()) > 0 {
			csr = r.GetRequest()
		}
		sum := KeyOf(csr)
		chain, err := authority.Sign(pki.Request{Role: pki.RoleAgent, Name: "node-1", TTL: time.Hour}, csr)
		if err != nil {
			return
		}
		block, _ := pem.Decode(chain)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if want := sha256.Sum256(cert.RawSubjectPublicKeyInfo); !bytes.Equal(sum[:], want[:]) {
			t.Errorf("a token is taken for the key %x, the certificate is for %x", sum, want)
		}
	})
}
