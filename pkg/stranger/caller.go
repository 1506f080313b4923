package stranger

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"

	"google.golang.org/grpc/peer"
)

// KeyOf is what a PEM signing request's key is known by; zero for text that is none,
// which no signer takes.
func KeyOf(request []byte) [sha256.Size]byte {
	block, _ := pem.Decode(request)
	if block == nil {
		return [sha256.Size]byte{}
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(csr.RawSubjectPublicKeyInfo)
}

// CallerAddress is where a call comes from; the zero Addr when that is not known.
func CallerAddress(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	if tcp, ok := p.Addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr()
	}
	return netip.Addr{}
}
