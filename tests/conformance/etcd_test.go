package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	etcdinit "github.com/cilium/cilium/pkg/kvstore/etcdinit"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	clientyaml "go.etcd.io/etcd/client/v3/yaml"
	"go.etcd.io/etcd/server/v3/embed"
)

// ciliumEtcd is the etcd of a cluster that runs Cilium, set up as its
// installation does: TLS on its port, users by the names of their certificates,
// no certificate that names an address.
type ciliumEtcd struct {
	t       *testing.T
	dir     string
	address string
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
}

// The users that Cilium's own initialisation makes: who writes, and who reads
// from another cluster.
const (
	userRoot   = "root"
	userAdmin  = "admin-" + readerName
	userRemote = "remote"
)

func newCiliumEtcd(t *testing.T) *ciliumEtcd {
	t.Helper()
	e := &ciliumEtcd{t: t, dir: t.TempDir(), address: freeAddress(t)}
	var err error
	if e.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Cilium CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &e.key.PublicKey, e.key)
	if err != nil {
		t.Fatal(err)
	}
	if e.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writeFile(t, e.file("ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	e.issue("server", "clustermesh-apiserver.cilium.io", "*.mesh.cilium.io", "localhost")
	e.serve()
	e.initialise()
	return e
}

func (e *ciliumEtcd) file(name string) string { return filepath.Join(e.dir, name) }

// issue writes a certificate for a user, or for the server with its names.
func (e *ciliumEtcd) issue(user string, names ...string) {
	e.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		e.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: user}, DNSNames: names,
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, e.ca, &key.PublicKey, e.key)
	if err != nil {
		e.t.Fatal(err)
	}
	text, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		e.t.Fatal(err)
	}
	writeFile(e.t, e.file(user+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	writeFile(e.t, e.file(user+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text}))
}

func (e *ciliumEtcd) serve() {
	e.t.Helper()
	config := embed.NewConfig()
	config.Dir = e.file("etcd")
	config.LogLevel, config.UnsafeNoFsync = "fatal", true
	at := url.URL{Scheme: "https", Host: e.address}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	// It has no other member; any port will do for them.
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.ClientTLSInfo = transport.TLSInfo{
		CertFile: e.file("server.crt"), KeyFile: e.file("server.key"), TrustedCAFile: e.file("ca.crt"), ClientCertAuth: true,
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(patience):
		e.t.Fatal("etcd is not ready")
	}
}

// initialise makes the users and what they may do, by Cilium's code.
func (e *ciliumEtcd) initialise() {
	e.t.Helper()
	config, err := clientyaml.NewConfig(e.access(userRoot, e.file("root.yaml")))
	if err != nil {
		e.t.Fatal(err)
	}
	client, err := clientv3.New(*config)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	var log complaints
	if err := etcdinit.ClusterMeshEtcdInit(e.t.Context(), log.logger(), client, readerName); err != nil {
		e.t.Fatal(err)
	}
}

// access writes the etcd client file of a user: what a person who sets up a
// mesh hands over.
func (e *ciliumEtcd) access(user, path string) string {
	e.t.Helper()
	e.issue(user)
	host := "localhost" // what the certificate says
	if user == userRemote {
		host = "127.0.0.1" // what it does not say
	}
	_, port, err := net.SplitHostPort(e.address)
	if err != nil {
		e.t.Fatal(err)
	}
	text := fmt.Sprintf("endpoints:\n- https://%s:%s\ntrusted-ca-file: %[3]s/ca.crt\ncert-file: %[3]s/%[4]s.crt\nkey-file: %[3]s/%[4]s.key\n",
		host, port, e.dir, user)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return path
}
