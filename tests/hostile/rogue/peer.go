package rogue

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Peer is a cluster with an authority of its own, and a store that it answers from.
type Peer struct {
	*Store
	Name string

	authority *pki.Authority
	server    *grpc.Server
	served    chan error
}

// maxSend is above all that a reader takes: it is to be tried.
const maxSend = 64 << 20

// NewPeer serves a peer on a listener, which it owns from then on. Its authority
// is kept in dir; it answers for the mesh names of its cluster, over TLS 1.3, as a
// gateway does.
func NewPeer(name, dir string, cluster uint64, on net.Listener) (*Peer, error) {
	authority, err := pki.OpenAuthority(filepath.Join(dir, "pki"), name)
	if err != nil {
		return nil, err
	}
	config, err := authority.ServerConfig(nil, nil)
	if err != nil {
		return nil, err
	}
	p := &Peer{Store: NewStore(cluster), Name: name, authority: authority, served: make(chan error, 1)}
	p.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(config)), grpc.MaxSendMsgSize(maxSend))
	pb.RegisterKVServer(p.server, p.Store)
	pb.RegisterWatchServer(p.server, p.Store)
	go func() { p.served <- p.server.Serve(on) }()
	return p, nil
}

// Close ends all streams and the server.
func (p *Peer) Close() error {
	p.server.Stop()
	if err := <-p.served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", p.Name, err)
	}
	return nil
}

// File returns the text of a peer file by which the cluster reader reads the peer
// at address, with a certificate that the peer's authority signed. Its files are
// written to dir. rest is added to the text.
func (p *Peer) File(reader, dir, address, rest string) ([]byte, error) {
	pair, err := p.authority.Issue(pki.Request{Role: pki.RolePeer, Name: reader, TTL: 24 * time.Hour})
	if err != nil {
		return nil, err
	}
	cert, key, ca := filepath.Join(dir, p.Name+".crt"), filepath.Join(dir, p.Name+".key"), filepath.Join(dir, p.Name+"-ca.crt")
	if err := errors.Join(pair.Save(cert, key), os.WriteFile(ca, p.authority.CertPEM(), 0o644)); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "endpoints: [https://%s]\ntrusted-ca-file: %s\ncert-file: %s\nkey-file: %s\n%s", address, ca, cert, key, rest), nil
}

// Hold keeps a stream open without a word.
func Hold(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
