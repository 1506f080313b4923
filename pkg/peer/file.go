package peer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// File is what a peer's file says: an etcd client configuration, as users of
// the protocol have it.
type File struct {
	Endpoints []string
	TLS       pki.ClientFiles
	// Claims are what the peer may say it has, nil where the file does not say. Import
	// is what is taken from it; quotas of 0 are the defaults.
	Claims []trust.Claim
	Import trust.Rules
	// Agreed is what the peer said that it has when it joined. What it says nothing of,
	// by class, is agreed as it is first named, and what grows can be approved. Empty when
	// it said nothing, nil when there was no such join.
	Agreed []trust.Claim
	// Path is the file's own, "" for one that was not read from a directory.
	Path string
	// Bounds is the file, "" for none, that says what is believed of a peer that joined.
	Bounds string
}

// ErrFile is returned, wrapped with what is wrong, for a peer file that can not
// be used.
var ErrFile = errors.New("not a usable peer file")

// fileFields are the keys of an etcd client configuration. Those that would
// switch off what keeps a mesh safe are known in order to be refused.
type fileFields struct {
	Endpoints             []string `yaml:"endpoints"`
	TrustedCAFile         string   `yaml:"trusted-ca-file"`
	CAFile                string   `yaml:"ca-file"`
	CertFile              string   `yaml:"cert-file"`
	KeyFile               string   `yaml:"key-file"`
	InsecureTransport     bool     `yaml:"insecure-transport"`
	InsecureSkipTLSVerify bool     `yaml:"insecure-skip-tls-verify"`

	Claims *claimFields  `yaml:"claims"`
	Import importFields  `yaml:"import"`
	Agreed *agreedFields `yaml:"agreed"`
}

// ParseFile reads the text of a peer file. Relative paths in it are relative to
// dir, the folder that it stands in. Fields that it does not know are ignored,
// as etcd's client does. Errors wrap ErrFile.
func ParseFile(text []byte, dir string) (File, error) { return parseFile(text, dir, false) }

// ParseBounded is ParseFile for a file that may be without a way to reach the peer:
// then it says what is believed of one that joined, and has no endpoints.
func ParseBounded(text []byte, dir string) (File, error) { return parseFile(text, dir, true) }

func parseFile(text []byte, dir string, bounds bool) (File, error) {
	var f fileFields
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return File{}, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if f.InsecureTransport || f.InsecureSkipTLSVerify {
		return File{}, fmt.Errorf("%w: insecure-transport and insecure-skip-tls-verify are not supported; peers are always authenticated", ErrFile)
	}
	if bounds && len(f.Endpoints) == 0 {
		out := File{}
		if err := out.trust(&f); err != nil {
			return File{}, fmt.Errorf("%w: %w", ErrFile, err)
		}
		return out, nil
	}
	if len(f.Endpoints) == 0 {
		return File{}, fmt.Errorf("%w: no endpoints; add 'endpoints:' with at least one https://host:port", ErrFile)
	}
	for _, e := range f.Endpoints {
		if err := checkEndpoint(e); err != nil {
			return File{}, err
		}
	}
	out := File{Endpoints: f.Endpoints, TLS: pki.ClientFiles{
		CAFile: cmp.Or(f.TrustedCAFile, f.CAFile), CertFile: f.CertFile, KeyFile: f.KeyFile,
	}}
	if err := out.trust(&f); err != nil {
		return File{}, fmt.Errorf("%w: %w", ErrFile, err)
	}
	for _, field := range []struct {
		name string
		path *string
	}{{"trusted-ca-file", &out.TLS.CAFile}, {"cert-file", &out.TLS.CertFile}, {"key-file", &out.TLS.KeyFile}} {
		if *field.path == "" {
			return File{}, fmt.Errorf("%w: %s is missing", ErrFile, field.name)
		}
		if !filepath.IsAbs(*field.path) {
			*field.path = filepath.Join(dir, *field.path)
		}
	}
	return out, nil
}

func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("%w: endpoint %q: %w", ErrFile, endpoint, err)
	}
	if u.Scheme != "https" || u.Host == "" || u.Path != "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("%w: endpoint %q is not https://host:port", ErrFile, endpoint)
	}
	if _, port, err := net.SplitHostPort(u.Host); err != nil || port == "" {
		return fmt.Errorf("%w: endpoint %q has no port", ErrFile, endpoint)
	}
	return nil
}
