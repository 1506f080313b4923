package join

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// files is the directory of what joined: a peer file for each peer, as operators
// write them by hand, with the files that it names; and in a folder of its own
// all that is known of each cluster, for a start without etcd's.
type files struct{ dir string }

// peer is the peer file of a cluster.
func (f files) peer(name string) string { return filepath.Join(f.dir, name) }

// membersDir is named as no cluster can be.
func (f files) membersDir() string { return filepath.Join(f.dir, ".members") }

func (f files) member(name string) string { return filepath.Join(f.membersDir(), name+".json") }

// origin is where it stands which record the peer's files were written from. They
// change by themselves after that: certificates are renewed, authorities replaced.
func (f files) origin(name string) string { return filepath.Join(f.membersDir(), name+".origin") }

// peerFile is what pkg/peer reads; paths are relative to the file.
type peerFile struct {
	Endpoints []string `yaml:"endpoints"`
	CA        string   `yaml:"trusted-ca-file"`
	Cert      string   `yaml:"cert-file"`
	Key       string   `yaml:"key-file"`
	Agreed    *agreed  `yaml:"agreed"`
}

// agreed are the claims of a peer that said them when it joined. It is there without
// any, too: so what it said when it joined before counts no more.
type agreed struct {
	Since         time.Time `yaml:"since"`
	PodCIDRs      []string  `yaml:"podCIDRs,omitempty"`
	MeshCIDR      []string  `yaml:"meshCIDR,omitempty"`
	NodeCIDRs     []string  `yaml:"nodeCIDRs,omitempty"`
	ExternalCIDRs []string  `yaml:"externalCIDRs,omitempty"`
}

func agreedOf(r *reading) *agreed {
	of := func(class trust.Class) (out []string) {
		for _, c := range r.Claims {
			if c.Class == class {
				out = append(out, c.Range.String())
			}
		}
		return out
	}
	return &agreed{
		Since: r.Since, PodCIDRs: of(trust.Pods), MeshCIDR: of(trust.Mesh), NodeCIDRs: of(trust.Nodes), ExternalCIDRs: of(trust.External),
	}
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
// Each file is replaced as a whole; the peer file comes last and goes first. What
// can not be written leaves no peer that is to go.
func (f files) save(name string, m member) error {
	file := f.peer(name)
	if m.Reads == nil {
		gone := f.remove(file, file+".key", file+".crt", file+".ca.crt", filepath.Join(f.dir, "."+name+".key.next"), f.origin(name))
		return errors.Join(gone, pki.WriteFile(f.member(name), m.encode(), 0o600))
	}
	return errors.Join(pki.WriteFile(f.member(name), m.encode(), 0o600), f.savePeer(name, file, m))
}

func (f files) savePeer(name, file string, m member) error {
	text, err := yaml.Marshal(peerFile{
		Endpoints: m.Reads.Endpoints, CA: name + ".ca.crt", Cert: name + ".crt", Key: name + ".key",
		Agreed: agreedOf(m.Reads),
	})
	if err != nil {
		return fmt.Errorf("encode the peer file of %s: %w", name, err)
	}
	pair := pki.Pair{CertPEM: []byte(m.Reads.Cert), KeyPEM: []byte(m.Reads.Key)}
	followed := false // what is trusted on disk stays
	err = paths(file).Replace(pair, func(there pki.Pair) bool {
		// Now that nobody renews the pair: a new authority is trusted before it signs.
		trusted, same := f.trusted(name, file, m.Reads)
		kept := renewed(there, m.Reads, trusted, same)
		followed = kept && same
		return kept
	})
	if err != nil {
		return err
	}
	if !followed {
		if err := pki.WriteFile(file+".ca.crt", []byte(m.Reads.CA), 0o644); err != nil {
			return err
		}
	}
	if err := pki.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	return pki.WriteFile(f.origin(name), originOf(m.Reads), 0o600)
}

// trusted are the peer's authorities: those on disk, which the peer may have replaced
// since, if what is there was written from this record, which same says.
func (f files) trusted(name, file string, r *reading) (authorities []byte, same bool) {
	from, err := os.ReadFile(f.origin(name))
	if err == nil && bytes.Equal(from, originOf(r)) {
		if there, err := os.ReadFile(file + ".ca.crt"); err == nil {
			return there, true
		}
	}
	return []byte(r.CA), false
}

func originOf(r *reading) []byte {
	sum := sha256.Sum256([]byte(r.CA + r.Cert))
	return []byte(hex.EncodeToString(sum[:]))
}

// paths are the files that a peer file names.
func paths(file string) pki.ClientFiles {
	return pki.ClientFiles{CAFile: file + ".ca.crt", CertFile: file + ".crt", KeyFile: file + ".key"}
}

// renewed reports whether the pair on disk comes of the one of the join by renewal
// in place: one of the trusted authorities signed it for the same subject, it begins
// no earlier, since what begins earlier may have been taken back, and it ends later;
// or at the same time, where what is there was written from the same record: a new
// authority of the peer has it renewed early, and another join brings another key.
func renewed(there pki.Pair, r *reading, trusted []byte, same bool) bool {
	joined, err := tls.X509KeyPair([]byte(r.Cert), []byte(r.Key))
	if err != nil {
		return false
	}
	subject, err := pki.SubjectOf(joined.Leaf)
	if err != nil {
		return false
	}
	signed := false
	for block, rest := pem.Decode(trusted); block != nil && !signed; block, rest = pem.Decode(rest) {
		_, err := pki.CheckClient(pem.EncodeToMemory(block), there.CertPEM, there.KeyPEM, subject)
		signed = err == nil
	}
	if !signed {
		return false
	}
	on, err := tls.X509KeyPair(there.CertPEM, there.KeyPEM)
	return err == nil && !on.Leaf.NotBefore.Before(joined.Leaf.NotBefore) && (joined.Leaf.NotAfter.Before(on.Leaf.NotAfter) || same && joined.Leaf.NotAfter.Equal(on.Leaf.NotAfter))
}

// remove goes on after one that can not be removed.
func (f files) remove(paths ...string) error {
	var wrong []error
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			wrong = append(wrong, fmt.Errorf("remove what joined: %w", err))
		}
	}
	return errors.Join(wrong...)
}
