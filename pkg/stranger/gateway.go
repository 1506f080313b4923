package stranger

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// maxAnswer bounds one answer of a gateway, in bytes.
const maxAnswer = 1 << 20

// ErrOther is for an authority that is not the one that is looked for.
var ErrOther = errors.New("another authority")

// Ask is the call by which a gateway says which authority its cluster has.
type Ask func(ctx context.Context, conn grpc.ClientConnInterface) (authorityPEM []byte, err error)

// FetchAuthority asks who answers at address, and believes it when that is the
// authority of the cluster called name, with the fingerprint, and the connection
// is that of its gateway. The error wraps ErrOther for another fingerprint.
func FetchAuthority(ctx context.Context, address, name string, fingerprint [sha256.Size]byte, ask Ask) ([]byte, error) {
	var shown []*x509.Certificate
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		// Nothing is said on this connection, and what it says is verified below.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			shown = state.PeerCertificates
			return nil
		},
	})), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<10)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	answer, err := ask(ctx, conn)
	if err != nil {
		return nil, errors.New(Clean(status.Convert(err).Message()))
	}
	authority, sum, err := CheckAuthority(name, answer)
	if sum != fingerprint {
		return nil, fmt.Errorf("another cluster than %s answers, or its authority was replaced since, and what names the old one is of no use any more, ask for a new one: it is %w, with the fingerprint %s, expected was %s",
			name, ErrOther, hex.EncodeToString(sum[:8]), hex.EncodeToString(fingerprint[:8]))
	}
	if err != nil {
		return nil, err
	}
	return authority, verifyGateway(shown, name, authority)
}

// verifyGateway checks that who holds the connection was certified by the authority.
func verifyGateway(shown []*x509.Certificate, name string, authority []byte) error {
	if len(shown) == 0 {
		return errors.New("the gateway shows no certificate")
	}
	roots, below := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	for _, cert := range shown[1:] {
		below.AddCert(cert)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{DNSName: pki.MeshNames(name)[0], Roots: roots, Intermediates: below})
	return err
}

// Dial connects to a gateway whose authority is known, as nobody. The caller closes
// the connection.
func Dial(address, name string, authorityPEM []byte) (*grpc.ClientConn, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authorityPEM)
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: pki.MeshNames(name)[0],
	})), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
}

// Fingerprint returns the SHA-256 of the first certificate in text, and that
// certificate. What follows it in text is not covered.
func Fingerprint(text []byte) (sum [sha256.Size]byte, cert *x509.Certificate, err error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return sum, nil, errors.New("no certificate in PEM")
	}
	if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return sum, nil, err
	}
	return sha256.Sum256(block.Bytes), cert, nil
}

// CheckAuthority refuses a certificate that is not the authority of a cluster.
// Only what it returns, encoded anew, is what the fingerprint is of: the text itself
// may hold more, which must not be trusted.
func CheckAuthority(name string, text []byte) (authority []byte, sum [sha256.Size]byte, err error) {
	sum, cert, err := Fingerprint(text)
	if err != nil {
		return nil, sum, err
	}
	want := fmt.Sprintf("causeway://%s/authority/%s", name, name)
	if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].String() != want {
		return nil, sum, errors.New("it is not the authority of cluster " + name)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), sum, nil
}

// maxForeign is how much of what another side says is shown, in bytes.
const maxForeign = 512

// Clean makes text of another cluster fit for a terminal and a log.
func Clean(text string) string {
	more := ""
	if len(text) > maxForeign {
		text, more = text[:maxForeign], "..."
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text) + more
}
