package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/process"
)

// ownerKey says in a shared etcd whose it is.
const ownerKey = "causeway/owner"

// ownerRetry is how long after an attempt that failed etcd is asked again.
const ownerRetry = time.Second

var (
	errOtherCluster   = errors.New("etcd belongs to another cluster")
	errOtherAuthority = errors.New("etcd belongs to replicas with another authority")
)

// store is the etcd of this cluster: an embedded one, which this process has for
// itself, or an external one, which it may share with other replicas.
type store struct {
	dir      string // locked: one process has it
	server   *kvstore.Server
	external kvstore.ClientConfig
	log      *slog.Logger
}

func newStore(cfg *config, log *slog.Logger) (*store, error) {
	s := &store{dir: filepath.Join(cfg.dataDir, "etcd"), log: log}
	if len(cfg.etcdEndpoints) == 0 {
		s.server = kvstore.NewServer(kvstore.ServerConfig{Dir: s.dir, QuotaBytes: cfg.etcdQuota, Logger: log})
		return s, nil
	}
	s.external = kvstore.ClientConfig{Endpoints: cfg.etcdEndpoints, Logger: log}
	if cfg.etcdFiles.CAFile != "" {
		// Certificates of an etcd name addresses as often as names.
		names := make([]string, 0, len(cfg.etcdEndpoints))
		for _, e := range cfg.etcdEndpoints {
			if u, err := url.Parse(e); err == nil { // validate has seen it
				names = append(names, u.Hostname())
			}
		}
		tls, err := pki.ClientConfig(cfg.etcdFiles, names...)
		if err != nil {
			return nil, fmt.Errorf("client of etcd: %w", err)
		}
		s.external.TLS = tls
	}
	return s, nil
}

// run keeps the embedded etcd until ctx ends.
func (s *store) run(ctx context.Context) error {
	if s.server == nil {
		return nil
	}
	return s.server.Run(ctx)
}

// dial takes the data directory for this process and returns a client, and what
// gives both up.
func (s *store) dial(ctx context.Context) (client *kvstore.Client, release func(), err error) {
	if s.server != nil {
		client, err = s.server.Dial(ctx) // its Run has the directory
		return client, func() { _ = client.Close() }, err
	}
	unlock, err := kvstore.HoldDir(ctx, s.dir)
	if err != nil {
		return nil, nil, err
	}
	if client, err = kvstore.Dial(s.external); err != nil {
		unlock()
		return nil, nil, err
	}
	return client, func() {
		_ = client.Close()
		unlock()
	}, nil
}

// election returns who decides which replica writes, nil where there is one.
func (s *store) election(cfg *config, client *kvstore.Client, registry prometheus.Registerer) *kvstore.Election {
	if s.server != nil {
		return nil
	}
	return kvstore.NewElection(kvstore.ElectionConfig{Client: client, Name: cfg.replica(), Logger: s.log, Registerer: registry})
}

// replica is what this process is called among those of its cluster.
func (c *config) replica() string {
	host, port, _ := net.SplitHostPort(c.listen) // validate has seen it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}

// owner is whose an etcd is. All replicas of a cluster must say the same.
type owner struct {
	Cluster   string `json:"cluster"`
	Authority string `json:"authority_sha256"`
	// known are all authorities that may stand there for this cluster: those that are
	// trusted now, and the one that was replaced last.
	known []string
}

// ownerOf names the old authority until its replacement has ended: replicas that are
// started meanwhile, and this one, find what they know.
func ownerOf(a *pki.Authority) owner {
	o := owner{Cluster: a.Cluster()}
	for _, r := range a.Roots() {
		o.known = append(o.known, hex.EncodeToString(r.Fingerprint[:]))
	}
	o.Authority = o.known[0]
	if replaced := a.Replaced(); replaced != "" {
		o.known = append(o.known, replaced)
	}
	return o
}

// claim makes the etcd this cluster's, or checks that it is: replicas that
// signed with different authorities, or published different clusters to one
// place, would each undo what the other does.
func (o owner) claim(ctx context.Context, client *kvstore.Client, endpoints []string, pkiDir string) error {
	value, err := json.Marshal(o)
	if err != nil {
		return err
	}
	// Creating it is safe for whoever comes first, also for one that stands by.
	taken, err := client.Claim(ctx, kvstore.Alone(), []kvstore.Claim{{Key: ownerKey, Value: value}})
	if err != nil {
		return err
	}
	text, other := taken[ownerKey]
	if !other || bytes.Equal(text, value) {
		return nil
	}
	var found owner
	if err := json.Unmarshal(text, &found); err != nil {
		return fmt.Errorf("read %q in etcd at %s: %w", ownerKey, strings.Join(endpoints, ", "), err)
	}
	if found.Cluster != o.Cluster {
		return fmt.Errorf("%w: the one at %s is cluster %q's, this is cluster %q; every cluster needs an etcd of its own",
			errOtherCluster, strings.Join(endpoints, ", "), found.Cluster, o.Cluster)
	}
	if slices.Contains(o.known, found.Authority) {
		_, err := client.CompareAndPut(ctx, ownerKey, text, true, value)
		return err // who was quicker has written the same, or is found at the next look
	}
	return fmt.Errorf("%w: they have the one with SHA-256 %s, this one has %s in %s; stop this replica, copy the pki directory of another one there,"+
		" and start it (if the authority was replaced on purpose, delete the key %q in etcd)",
		errOtherAuthority, found.Authority, o.Authority, pkiDir, ownerKey)
}

// guard claims until it is done, then again whenever this replica begins to
// write: etcd may have been emptied. What it returns ends the process. The
// embedded etcd is this process's own.
func guard(ctx context.Context, authority *pki.Authority, s *store, client *kvstore.Client, election *kvstore.Election, pkiDir string, ready *process.Condition, claimed chan<- struct{}) error {
	if election == nil {
		ready.SetReady()
		close(claimed)
		return nil
	}
	for {
		_, elected := election.Term()
		err := ownerOf(authority).claim(ctx, client, s.external.Endpoints, pkiDir)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOtherCluster) || errors.Is(err, errOtherAuthority):
			return err
		case err != nil:
			ready.SetNotReady(err.Error())
			elected = nil
		case claimed != nil:
			ready.SetReady()
			close(claimed)
			claimed = nil
		}
		var again <-chan time.Time
		if elected == nil {
			again = time.After(ownerRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-elected:
		case <-again:
		}
	}
}

// validateStore checks the flags of an external etcd.
func (c *config) validateStore() error {
	files := 0
	for _, f := range []string{c.etcdFiles.CAFile, c.etcdFiles.CertFile, c.etcdFiles.KeyFile} {
		if f != "" {
			files++
		}
	}
	switch {
	case len(c.etcdEndpoints) == 0 && files > 0:
		return errors.New("--etcd-ca-file, --etcd-cert-file and --etcd-key-file are for an external etcd: give --etcd-endpoints too")
	case files > 0 && files < 3:
		return errors.New("--etcd-ca-file, --etcd-cert-file and --etcd-key-file: give all three or none")
	}
	for _, e := range c.etcdEndpoints {
		if err := validEndpoint(e, files == 3); err != nil {
			return fmt.Errorf("--etcd-endpoints: %w", err)
		}
	}
	return nil
}

func validEndpoint(endpoint string, tls bool) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case u.Host == "" || u.Port() == "" || (u.Path != "" && u.Path != "/"):
		return fmt.Errorf("%q is not https://host:port", endpoint)
	case u.Scheme == "https" && !tls:
		return fmt.Errorf("%q needs --etcd-ca-file, --etcd-cert-file and --etcd-key-file", endpoint)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && tls:
		return fmt.Errorf("%q: with certificates it must be https://", endpoint)
	case u.Scheme == "http" && local:
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("%q: without TLS only on this machine (localhost): who can write to etcd decides where connections go", endpoint)
	}
	return fmt.Errorf("%q is not https://host:port", endpoint)
}
