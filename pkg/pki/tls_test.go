package pki

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// shake runs a handshake over a socket and a byte after it: in TLS 1.3 a client
// learns only then that its certificate was refused.
func shake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer listener.Close()
	wg.Go(func() {
		raw, err := listener.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server)
		if serverErr = conn.Handshake(); serverErr == nil {
			state = conn.ConnectionState()
			_, serverErr = conn.Write([]byte("x"))
		}
	})
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, clientErr = tls.Client(raw, client).Read(make([]byte, 1))
	_ = raw.Close()
	wg.Wait()
	return state, serverErr, clientErr
}

func TestCheckSubject(t *testing.T) {
	dir := t.TempDir()
	authority, err := OpenAuthority(filepath.Join(dir, "pki"), "east")
	if err != nil {
		t.Fatal(err)
	}
	files := func(role Role, name string) ClientFiles {
		pair, err := authority.Issue(Request{Role: role, Name: name, TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		f := ClientFiles{CAFile: authority.CertFile(), CertFile: filepath.Join(dir, string(role)+name+".crt"), KeyFile: filepath.Join(dir, string(role)+name+".key")}
		if err := pair.Save(f.CertFile, f.KeyFile); err != nil {
			t.Fatal(err)
		}
		return f
	}
	want := Subject{Cluster: "east", Role: RoleAgent, Name: "n1"}
	if err := files(RoleAgent, "n1").CheckSubject(want); err != nil {
		t.Error(err)
	}
	server := files(RoleServer, "east")
	for what, tc := range map[string]struct {
		files ClientFiles
		want  Subject
		err   error
		text  string
	}{
		"another node":    {files(RoleAgent, "n2"), want, ErrSubject, "causeway://east/agent/n2, needed is one for causeway://east/agent/n1"},
		"another role":    {files(RolePeer, "n1"), want, ErrSubject, "causeway://east/peer/n1"},
		"another cluster": {files(RoleAgent, "n1"), Subject{Cluster: "west", Role: RoleAgent, Name: "n1"}, ErrSubject, "causeway://east/agent/n1"},
		"a server's":      {server, Subject{Cluster: "east", Role: RoleServer, Name: "east"}, ErrCertificate, "not for clients"},
		"an authority's":  {ClientFiles{CAFile: authority.CertFile(), CertFile: authority.CertFile(), KeyFile: filepath.Join(dir, "pki", "ca.key")}, want, ErrSubject, "an authority's"},
	} {
		err := tc.files.CheckSubject(tc.want)
		if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.text) || !strings.Contains(err.Error(), tc.files.CertFile) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func serverConfig(t *testing.T, a *Authority) *tls.Config {
	t.Helper()
	config, err := a.ServerConfig(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func clientConfig(t *testing.T, files ClientFiles, names ...string) *tls.Config {
	t.Helper()
	config, err := ClientConfig(files, names...)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestHandshake(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	files := clientFiles(t, a, Request{Role: RolePeer, Name: "west"})
	state, serverErr, clientErr := shake(t, serverConfig(t, a), clientConfig(t, files, MeshNames("east")...))
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if state.Version != tls.VersionTLS13 {
		t.Errorf("version %x", state.Version)
	}
	got, err := SubjectOf(state.VerifiedChains[0][0])
	if want := (Subject{"east", RolePeer, "west"}); err != nil || got != want {
		t.Errorf("subject %v, error %v", got, err)
	}
}

func TestServerTakesNoOldTLS(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	files := clientFiles(t, a, Request{Role: RolePeer, Name: "west"})
	config := clientConfig(t, files, MeshNames("east")...)
	config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serverErr, clientErr := shake(t, serverConfig(t, a), config); serverErr == nil || clientErr == nil {
		t.Error("TLS 1.2 was taken")
	}
}

func TestServerTakesNoCertificateButNoForeignOne(t *testing.T) {
	east := openAuthority(t, t.TempDir(), "east")
	imposter := openAuthority(t, t.TempDir(), "east")
	config := clientConfig(t, clientFiles(t, east, Request{Role: RolePeer, Name: "west"}), MeshNames("east")...)

	config.GetClientCertificate = nil
	state, serverErr, clientErr := shake(t, serverConfig(t, east), config)
	if serverErr != nil || clientErr != nil || len(state.PeerCertificates) != 0 {
		t.Errorf("without a certificate: %v, %v", serverErr, clientErr)
	}
	for name, pair := range map[string]*Pair{
		"of another authority": issue(t, imposter, Request{Role: RoleAdmin, Name: "admin"}),
		"of a server":          issue(t, east, Request{Role: RoleServer}),
		"expired":              issue(t, east, Request{Role: RoleAdmin, Name: "admin", TTL: time.Nanosecond}),
	} {
		cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		if _, serverErr, clientErr := shake(t, serverConfig(t, east), config); serverErr == nil || clientErr == nil {
			t.Errorf("a certificate %s was taken", name)
		}
	}
}

func TestClientRefusesServer(t *testing.T) {
	east := openAuthority(t, t.TempDir(), "east")
	files := clientFiles(t, east, Request{Role: RolePeer, Name: "west"})
	with := func(pair *Pair) *tls.Config {
		cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	}
	for _, test := range []struct {
		name   string
		server *tls.Config
		names  []string
		dial   string
		want   error
		text   string
	}{
		{
			name: "wrong CA", server: serverConfig(t, openAuthority(t, t.TempDir(), "east")),
			names: MeshNames("east"), want: ErrUntrusted, text: files.CAFile,
		},
		{
			name: "another cluster", server: serverConfig(t, east),
			names: MeshNames("east2"), want: ErrServerName, text: "east.mesh.causeway.io",
		},
		{
			name: "another host", server: serverConfig(t, east),
			dial: "gateway.example.org", want: ErrServerName, text: "gateway.example.org",
		},
		{
			name: "expired", server: with(issue(t, east, Request{Role: RoleServer, TTL: time.Nanosecond})),
			names: MeshNames("east"), want: ErrExpired, text: "whoever runs the server has to give it a new one",
		},
		{
			name: "a client's certificate", server: with(issue(t, east, Request{Role: RoleAgent, Name: "node"})),
			names: MeshNames("east"), text: "incompatible key usage",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := clientConfig(t, files, test.names...)
			config.ServerName = test.dial
			_, _, err := shake(t, test.server, config)
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error of more than one line: %v", err)
			}
		})
	}
}

func TestClientTakesDialledHost(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	config := clientConfig(t, clientFiles(t, a, Request{Role: RoleAgent, Name: "node-1"}))
	config.ServerName = "localhost"
	if _, serverErr, clientErr := shake(t, serverConfig(t, a), config); serverErr != nil || clientErr != nil {
		t.Error(serverErr, clientErr)
	}
}

func TestClientCertificateOfAnotherAuthority(t *testing.T) {
	east, west := openAuthority(t, t.TempDir(), "east"), openAuthority(t, t.TempDir(), "west")
	files := clientFiles(t, west, Request{Role: RolePeer, Name: "south"})
	write(t, files.CAFile, east.CertPEM())
	_, _, err := shake(t, serverConfig(t, east), clientConfig(t, files, MeshNames("east")...))
	if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), files.CertFile) {
		t.Errorf("error %v", err)
	}
}

func TestClientReadsFilesAgain(t *testing.T) {
	old, renewed := openAuthority(t, t.TempDir(), "east"), openAuthority(t, t.TempDir(), "east")
	files := clientFiles(t, old, Request{Role: RolePeer, Name: "west"})
	config := clientConfig(t, files, MeshNames("east")...)
	if _, _, err := shake(t, serverConfig(t, old), config); err != nil {
		t.Fatal(err)
	}
	write(t, files.CAFile, append(old.CertPEM(), renewed.CertPEM()...))
	if err := issue(t, renewed, Request{Role: RolePeer, Name: "west"}).Save(files.CertFile, files.KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, _, err := shake(t, serverConfig(t, renewed), config); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(files.KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, _, err := shake(t, serverConfig(t, renewed), config); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestClientConfigRefuses(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, files *ClientFiles)
		want   error
	}{
		{"no CA", func(_ *testing.T, f *ClientFiles) { f.CAFile += ".none" }, fs.ErrNotExist},
		{"no certificate", func(_ *testing.T, f *ClientFiles) { f.CertFile += ".none" }, fs.ErrNotExist},
		{"no key", func(_ *testing.T, f *ClientFiles) { f.KeyFile += ".none" }, fs.ErrNotExist},
		{"empty CA", func(t *testing.T, f *ClientFiles) { write(t, f.CAFile, nil) }, ErrCertificate},
		{"empty certificate", func(t *testing.T, f *ClientFiles) { write(t, f.CertFile, nil) }, ErrCertificate},
		{"empty key", func(t *testing.T, f *ClientFiles) { write(t, f.KeyFile, nil) }, ErrKey},
		{"key of another", func(t *testing.T, f *ClientFiles) {
			write(t, f.KeyFile, issue(t, a, Request{Role: RolePeer, Name: "west"}).KeyPEM)
		}, ErrKey},
		{"expired", func(t *testing.T, f *ClientFiles) {
			pair := issue(t, a, Request{Role: RolePeer, Name: "west", TTL: time.Nanosecond})
			if err := pair.Save(f.CertFile, f.KeyFile); err != nil {
				t.Fatal(err)
			}
		}, ErrExpired},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := clientFiles(t, a, Request{Role: RolePeer, Name: "west"})
			test.damage(t, &files)
			if _, err := ClientConfig(files); !errors.Is(err, test.want) {
				t.Errorf("error %v", err)
			} else if !strings.Contains(err.Error(), filepath.Dir(files.CAFile)) {
				t.Errorf("error names no file: %v", err)
			}
		})
	}
}

func TestClientCertificateNotYetValid(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	files := clientFiles(t, a, Request{Role: RolePeer, Name: "west"})
	synctest.Test(t, func(t *testing.T) { // its clock begins in 2000
		_, err := ClientConfig(files)
		if !errors.Is(err, ErrNotYetValid) || !strings.Contains(err.Error(), "clock") {
			t.Errorf("error %v", err)
		}
	})
}

func TestServerRenewsItself(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		config := serverConfig(t, openAuthority(t, dir, "east"))
		get := func() *tls.Certificate {
			cert, err := config.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			if now := time.Now(); now.After(cert.Leaf.NotAfter) || now.Before(cert.Leaf.NotBefore) {
				t.Fatalf("at %s a certificate from %s to %s", now, cert.Leaf.NotBefore, cert.Leaf.NotAfter)
			}
			return cert
		}
		first := get()
		time.Sleep(serverTTL / 2)
		if get() != first {
			t.Error("renewed after half its time")
		}
		time.Sleep(serverTTL / 4)
		if get() == first {
			t.Error("not renewed after three quarters of its time")
		}
		time.Sleep(10 * serverTTL)
		get()
		get().Leaf.NotBefore = time.Now().Add(time.Hour) // as if the clock had been ahead, and was put right
		get()
	})
}
