package pki

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/file"
)

// Admin is all that the command line needs to reach a cluster. It holds a
// private key, so its file is its owner's only.
type Admin struct {
	// Endpoint is the gateway's host:port.
	Endpoint    string `yaml:"endpoint"`
	ClusterName string `yaml:"cluster-name"`
	// CA, Cert and Key are PEM.
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// WriteAdmin replaces path, readable by its owner only.
func WriteAdmin(path string, admin Admin) error {
	text, err := yaml.Marshal(admin)
	if err != nil {
		return fmt.Errorf("encode %q: %w", path, err)
	}
	return file.Write(path, text, 0o600)
}

// ReadAdmin reads what WriteAdmin wrote. Certificates are checked when they are
// used, by ClientConfig.
func ReadAdmin(path string) (Admin, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Admin{}, fmt.Errorf("read admin file: %w", err)
	}
	return ParseAdmin("admin file "+path, text)
}

// ParseAdmin is ReadAdmin for what is no file; where says in errors what it is.
func ParseAdmin(where string, text []byte) (Admin, error) {
	var admin Admin
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&admin); err != nil {
		return Admin{}, fmt.Errorf("parse %s: %w", where, err)
	}
	if admin.Endpoint == "" {
		return Admin{}, fmt.Errorf("%s: %w", where, errors.New("endpoint is empty"))
	}
	if err := cluster.ValidateName(admin.ClusterName); err != nil {
		return Admin{}, fmt.Errorf("%s: %w", where, err)
	}
	return admin, nil
}

// ClientConfig returns the TLS configuration to dial the cluster's gateway with.
func (a Admin) ClientConfig() (*tls.Config, error) {
	c := &client{names: MeshNames(a.ClusterName), load: a.load}
	return c.config()
}

func (a Admin) load() (*credentials, error) {
	c := &credentials{certDoc: "admin certificate of cluster " + a.ClusterName, caDoc: "the admin file's ca"}
	return c, c.parse([]byte(a.CA), []byte(a.Cert), []byte(a.Key))
}
