package join

import (
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

// origin is where it stands which join the peer's files are of. They
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
	same, known := f.of(name, m.Reads)
	err = paths(file).Replace(func(there pki.Held) pki.Held { return better(there, m.Reads, same, known) })
	if err != nil {
		return err
	}
	if err := pki.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	return pki.WriteFile(f.origin(name), []byte(m.Reads.origin()), 0o600)
}

// of reports whether the files of a peer are of the join that a record is of, and whether
// it is known of which they are.
func (f files) of(name string, r *reading) (same, known bool) {
	from, err := os.ReadFile(f.origin(name))
	return err == nil && string(from) == r.origin(), err == nil
}

// paths are the files that a peer file names.
func paths(file string) pki.ClientFiles {
	return pki.ClientFiles{CAFile: file + ".ca.crt", CertFile: file + ".crt", KeyFile: file + ".key"}
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
