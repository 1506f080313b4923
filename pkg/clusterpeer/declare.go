package clusterpeer

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Reasons why a resource is not in force, as its condition Accepted has them.
const (
	reasonInvalid         = "Invalid"
	reasonSecretNotNamed  = "SecretsNotEnabled"
	reasonSecretMissing   = "SecretMissing"
	reasonSecretForbidden = "SecretForbidden"
	reasonSecretInvalid   = "SecretInvalid"
	reasonUnavailable     = "Unavailable"
)

// refusal is why a resource is not in force as it is.
type refusal struct{ reason, text string }

func (r *refusal) Error() string { return r.text }

func refuse(reason, format string, args ...any) error {
	return &refusal{reason: reason, text: fmt.Sprintf(format, args...)}
}

// refusalOf returns what is wrong; all that is nobody's fault is tried again.
func refusalOf(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	return &refusal{reason: reasonUnavailable, text: err.Error()}
}

// peerFile is a peer file; what it holds is read by pkg/peer.
type peerFile struct {
	Endpoints []string                `json:"endpoints,omitempty"`
	CA        string                  `json:"trusted-ca-file,omitempty"`
	Cert      string                  `json:"cert-file,omitempty"`
	Key       string                  `json:"key-file,omitempty"`
	Claims    *kube.ClusterPeerClaims `json:"claims,omitempty"`
	Import    *kube.ClusterPeerImport `json:"import,omitempty"`
}

// pathsOf are the files beside a peer file that it names.
func pathsOf(file string) pki.ClientFiles {
	return pki.ClientFiles{CAFile: file + ".ca.crt", CertFile: file + ".crt", KeyFile: file + ".key"}
}

// declare writes the peer file of a resource, if it is good; else what is there stays.
func (m *Manager) declare(ctx context.Context, p *kube.ClusterPeer) error {
	name := p.Metadata.Name
	if err := cluster.ValidateName(name); err != nil {
		return refuse(reasonInvalid, "the object has the name of the cluster: %v", err)
	}
	if name == m.cfg.Cluster {
		return refuse(reasonInvalid, "%s is this cluster's own name", name)
	}
	if id := p.Spec.ID; id != 0 && id == int64(m.cfg.ID) {
		return refuse(reasonInvalid, "spec.id %d is this cluster's own id: each cluster of the mesh has its own", id)
	}
	content := peerFile{Claims: p.Spec.Claims, Import: p.Spec.Import}
	var found *credentials
	if p.Spec.SecretRef != nil {
		var err error
		if found, err = m.credentials(ctx, p); err != nil {
			return err
		}
		content.Endpoints = found.endpoints
		content.CA, content.Cert, content.Key = name+".ca.crt", name+".crt", name+".key"
	}
	text, err := json.MarshalIndent(content, "", "  ") // which YAML's readers take
	if err != nil {
		return err
	}
	if _, err := peer.ParseBounded(text, m.cfg.Dir); err != nil {
		return refuse(reasonInvalid, "%v", err)
	}
	file := filepath.Join(m.cfg.Dir, name)
	if found != nil {
		if err := m.keep(name, file, found); err != nil {
			return err
		}
	}
	if err := pki.WriteFile(file, append(text, '\n'), 0o600); err != nil || found != nil {
		return err
	}
	return m.dropKey(name)
}

// dropKey removes what a peer was read with. What is not there is fine.
func (m *Manager) dropKey(name string) error {
	files := pathsOf(filepath.Join(m.cfg.Dir, name))
	var wrong []error
	for _, file := range []string{files.KeyFile, files.CertFile, files.CAFile, m.secretMark(name), m.hidden(name, ".key.lock"), m.hidden(name, ".key.next")} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// keep writes the certificate files, unless they are of this Secret: then the
// certificate, or what is trusted, may have been renewed since.
func (m *Manager) keep(name, file string, c *credentials) error {
	sum := sha256.Sum256([]byte(c.ca + "\x00" + c.cert + "\x00" + c.key))
	mark := []byte(hex.EncodeToString(sum[:]))
	files := pathsOf(file)
	if was, err := os.ReadFile(m.secretMark(name)); err == nil && string(was) == string(mark) {
		if _, err := files.Certificate(); err == nil {
			return nil
		}
	}
	said := pki.Held{CA: []byte(c.ca), Pair: pki.Pair{CertPEM: []byte(c.cert), KeyPEM: []byte(c.key)}}
	if err := files.Replace(func(pki.Held) pki.Held { return said }); err != nil {
		return err
	}
	return pki.WriteFile(m.secretMark(name), mark, 0o600)
}

// credentials are what a Secret says of how a peer is read.
type credentials struct {
	endpoints     []string
	ca, cert, key string
}

// credentials reads the Secret of a resource.
func (m *Manager) credentials(ctx context.Context, p *kube.ClusterPeer) (*credentials, error) {
	if m.cfg.Secrets == "" {
		return nil, refuse(reasonSecretNotNamed, "no namespace is given to read Secrets in: start the API server with --peer-secrets-namespace")
	}
	secret := p.Spec.SecretRef.Name
	data, err := m.cfg.API.Secret(ctx, m.cfg.Secrets, secret)
	switch {
	case errors.Is(err, kube.ErrGone):
		return nil, refuse(reasonSecretMissing, "there is no Secret %s in the namespace %s", secret, m.cfg.Secrets)
	case errors.Is(err, kube.ErrForbidden):
		return nil, refuse(reasonSecretForbidden, "Secret %s/%s may not be read: add %q to clusterPeers.secrets of the chart, or to the resourceNames of the Role", m.cfg.Secrets, secret, secret)
	case err != nil:
		return nil, err
	}
	c, err := credentialsOf(p.Metadata.Name, p.Spec.Endpoints, data)
	if err != nil {
		return nil, refuse(reasonSecretInvalid, "Secret %s/%s: %v", m.cfg.Secrets, secret, err)
	}
	return c, nil
}

// etcdClient is the file that etcd's clients, and Cilium, have.
type etcdClient struct {
	Endpoints []string `yaml:"endpoints"`
	TrustedCA string   `yaml:"trusted-ca-file"`
	CA        string   `yaml:"ca-file"`
	Cert      string   `yaml:"cert-file"`
	Key       string   `yaml:"key-file"`
}

// credentialsOf takes ca.crt, tls.crt and tls.key, as cert-manager writes them, or
// what an etcd client file names, which stands at the cluster's name or at
// etcd-config.yaml: by the last part of the paths in it, as Secrets for Cilium are.
// Errors name keys, and nothing of what they hold.
func credentialsOf(name string, endpoints []string, data map[string][]byte) (*credentials, error) {
	at := etcdClient{CA: "ca.crt", Cert: "tls.crt", Key: "tls.key"}
	for _, key := range []string{name, "etcd-config.yaml"} {
		text, ok := data[key]
		if !ok {
			continue
		}
		at = etcdClient{}
		if err := yaml.Unmarshal(text, &at); err != nil {
			return nil, fmt.Errorf("its key %s does not parse", key)
		}
		if at.TrustedCA != "" {
			at.CA = at.TrustedCA
		}
		break
	}
	c := &credentials{endpoints: endpoints}
	if len(endpoints) == 0 {
		c.endpoints = at.Endpoints
	}
	if len(c.endpoints) == 0 {
		return nil, errors.New("neither it nor spec.endpoints say where the cluster is reached")
	}
	for _, part := range []struct {
		at string
		to *string
	}{{at.CA, &c.ca}, {at.Cert, &c.cert}, {at.Key, &c.key}} {
		key := path.Base(part.at)
		text, ok := data[key]
		if !ok || part.at == "" {
			return nil, fmt.Errorf("it has no %q", key)
		}
		*part.to = string(text)
	}
	if _, err := tls.X509KeyPair([]byte(c.cert), []byte(c.key)); err != nil {
		return nil, errors.New("certificate and key do not belong together, or are none")
	}
	if !x509.NewCertPool().AppendCertsFromPEM([]byte(c.ca)) {
		return nil, errors.New("what is to be trusted is no certificate")
	}
	return c, nil
}
