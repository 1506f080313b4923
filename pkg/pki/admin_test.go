package pki

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

func adminOf(t *testing.T, a *Authority, ttl time.Duration) Admin {
	t.Helper()
	pair := issue(t, a, Request{Role: RoleAdmin, Name: "admin", TTL: ttl})
	return Admin{
		Endpoint:    "10.77.0.11:8474",
		ClusterName: a.Cluster(),
		CA:          string(a.CertPEM()),
		Cert:        string(pair.CertPEM),
		Key:         string(pair.KeyPEM),
	}
}

func TestAdmin(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	path := filepath.Join(t.TempDir(), "admin.yaml")
	want := adminOf(t, a, time.Hour)
	if err := WriteAdmin(path, want); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, error %v", info.Mode(), err)
	}
	got, err := ReadAdmin(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	config, err := got.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	state, serverErr, clientErr := shake(t, serverConfig(t, a), config)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if s, err := SubjectOf(state.PeerCertificates[0]); err != nil || s.Role != RoleAdmin {
		t.Errorf("subject %v, error %v", s, err)
	}
}

func TestAdminOfAnotherCluster(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	admin := adminOf(t, a, time.Hour)
	admin.ClusterName = "west"
	config, err := admin.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := shake(t, serverConfig(t, a), config); !errors.Is(err, ErrServerName) {
		t.Errorf("error %v", err)
	}
}

func TestAdminExpired(t *testing.T) {
	admin := adminOf(t, openAuthority(t, t.TempDir(), "east"), time.Nanosecond)
	if _, err := admin.ClientConfig(); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "east") {
		t.Errorf("error %v", err)
	}
}

func TestReadAdminRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.yaml")
	if _, err := ReadAdmin(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	for text, want := range map[string]string{
		"":                                "EOF",
		"endpoint: [":                     "yaml",
		"endpont: x:1\n":                  "endpont",
		"cluster-name: east\n":            "endpoint is empty",
		"endpoint: x:1\n":                 "cluster name",
		"endpoint: x:1\ncluster-name: E/": cluster.ErrName.Error(),
	} {
		write(t, path, []byte(text))
		_, err := ReadAdmin(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error %v", text, err)
		}
	}
}
