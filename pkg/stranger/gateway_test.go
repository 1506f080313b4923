package stranger

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

func TestClean(t *testing.T) {
	long := strings.Repeat("a", maxForeign-1) + "\u00e9"
	for text, want := range map[string]string{
		"east \u00e9": "east \u00e9", "a\x1b[2Jb\nc\u202e\xff": "a?[2Jb?c??", long: long[:maxForeign-1] + "?...",
	} {
		if got := Clean(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func newAuthority(t *testing.T, name string) *pki.Authority {
	t.Helper()
	a, err := pki.OpenAuthority(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve answers as a gateway of the authority does, with no service behind it.
func serve(t *testing.T, a *pki.Authority) string {
	t.Helper()
	config, err := a.ServerConfig(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String()
}

// Whoever can say what the authority is, and has another one's gateway, is not
// believed.
func TestFetchAuthority(t *testing.T) {
	east, other := newAuthority(t, "east"), newAuthority(t, "east")
	sum := func(a *pki.Authority) [sha256.Size]byte {
		sum, _, err := Fingerprint(a.CertPEM())
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	for name, tc := range map[string]struct {
		gateway, says, want *pki.Authority
		cluster, refused    string
	}{
		"right":                 {east, east, east, "east", ""},
		"another":               {other, other, east, "east", "another cluster than east answers"},
		"not the connection's":  {other, east, east, "east", "certificate signed by unknown authority"},
		"of another name":       {east, east, east, "west", "not the authority of cluster west"},
		"nothing that is known": {east, nil, east, "east", "away"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			address := serve(t, tc.gateway)
			got, err := FetchAuthority(ctx, address, tc.cluster, sum(tc.want), func(ctx context.Context, conn grpc.ClientConnInterface) ([]byte, error) {
				_ = conn.Invoke(ctx, "/nothing/Nothing", nil, nil) // makes the connection, as a real question does
				if tc.says == nil {
					return nil, errors.New("away")
				}
				return tc.says.CertPEM(), nil
			})
			if tc.refused == "" && (err != nil || string(got) != string(east.CertPEM())) {
				t.Errorf("got %q, %v", got, err)
			}
			if tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)) {
				t.Errorf("got %v, want %q", err, tc.refused)
			}
		})
	}
}
