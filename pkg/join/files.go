package join

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// files is the directory of what joined: a peer file for each peer, as operators
// write them by hand, with the files that it names; and in a folder of its own
// all that is known of each cluster, for a start without etcd's.
type files struct{ dir string }

func (f files) membersDir() string { return filepath.Join(f.dir, "members") }

func (f files) member(name string) string { return filepath.Join(f.membersDir(), name+".json") }

// peerFile is what pkg/peer reads; paths are relative to the file.
type peerFile struct {
	Endpoints []string `yaml:"endpoints"`
	CA        string   `yaml:"trusted-ca-file"`
	Cert      string   `yaml:"cert-file"`
	Key       string   `yaml:"key-file"`
}

// load returns what an earlier run wrote. A file that can not be used is named in
// the error, and the others are returned.
func (f files) load() (map[string]member, error) {
	if err := os.MkdirAll(f.membersDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of joined clusters: %w", err)
	}
	entries, err := os.ReadDir(f.membersDir())
	if err != nil {
		return nil, fmt.Errorf("read the directory of joined clusters: %w", err)
	}
	out := map[string]member{}
	var wrong []error
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok {
			continue // a draft that was never finished
		}
		text, err := os.ReadFile(f.member(name))
		if err == nil {
			out[name], err = parseMember(name, text)
		}
		if err != nil {
			delete(out, name)
			wrong = append(wrong, err)
		}
	}
	return out, errors.Join(wrong...)
}

// save writes what is known of a cluster, and makes its peer file what that says.
// Each file is replaced as a whole; the peer file comes last and goes first.
func (f files) save(name string, m member) error {
	if err := pki.WriteFile(f.member(name), m.encode(), 0o600); err != nil {
		return err
	}
	file := filepath.Join(f.dir, name)
	if m.Reads == nil {
		return f.remove(file, file+".key", file+".crt", file+".ca.crt")
	}
	text, err := yaml.Marshal(peerFile{
		Endpoints: m.Reads.Endpoints, CA: name + ".ca.crt", Cert: name + ".crt", Key: name + ".key",
	})
	if err != nil {
		return fmt.Errorf("encode the peer file of %s: %w", name, err)
	}
	if !renewed(file, m.Reads) {
		pair := pki.Pair{CertPEM: []byte(m.Reads.Cert), KeyPEM: []byte(m.Reads.Key)}
		if err := pair.Save(file+".crt", file+".key"); err != nil {
			return err
		}
	}
	if err := pki.WriteFile(file+".ca.crt", []byte(m.Reads.CA), 0o644); err != nil {
		return err
	}
	return pki.WriteFile(file, text, 0o600)
}

// renewed reports whether the pair on disk is newer than the one of the join: it
// is renewed in place.
func renewed(file string, r *reading) bool {
	there, err := tls.LoadX509KeyPair(file+".crt", file+".key")
	if err != nil {
		return false
	}
	joined, err := tls.X509KeyPair([]byte(r.Cert), []byte(r.Key))
	return err == nil && joined.Leaf.NotAfter.Before(there.Leaf.NotAfter)
}

func (f files) remove(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what joined: %w", err)
		}
	}
	return nil
}
