package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/lab"
)

// connect makes a cluster read a peer, or each every other.
func connect(_ context.Context, c *call) error {
	if len(c.args) == 0 {
		return c.lab.ConnectAll()
	}
	reader, peer, err := c.pair()
	if err != nil {
		return err
	}
	return reader.Connect(peer)
}

func disconnect(_ context.Context, c *call) error {
	reader, peer, err := c.pair()
	if err != nil {
		return err
	}
	return reader.Disconnect(peer)
}

// cached waits until a cluster's own etcd has all that a peer publishes, which lags
// behind what is in use: what was not written yet is not known after a restart.
func cached(ctx context.Context, c *call) error {
	reader, peer, err := c.pair()
	if err != nil {
		return err
	}
	socket := filepath.Join(reader.DataDir(), "etcd", "etcd.sock")
	etcd, err := kvstore.Dial(kvstore.ClientConfig{Endpoints: []string{"unix://" + socket}})
	if err != nil {
		return err
	}
	layout := wire.Layout{Cluster: peer.Name, Cached: true}
	err = eventually(ctx, func() error {
		for _, kind := range wire.Kinds() {
			if _, found, err := etcd.Get(ctx, layout.Marker(kind)); err != nil || !found {
				return cmp.Or(err, fmt.Errorf("%s has not cached all %s of %s", reader.Name, kind, peer.Name))
			}
		}
		return nil
	})
	return errors.Join(err, etcd.Close())
}

func (c *call) pair() (reader, peer *lab.Cluster, err error) {
	if reader, err = c.cluster(c.args[0]); err != nil {
		return nil, nil, err
	}
	peer, err = c.cluster(c.args[1])
	return reader, peer, err
}

// peerFile writes any text, in which variables of the script are replaced, as
// a cluster's file of a peer, or removes the file.
func peerFile(_ context.Context, c *call) error {
	reader, err := c.cluster(c.args[0])
	if err != nil {
		return err
	}
	if len(c.args) == 2 {
		return os.Remove(filepath.Join(reader.PeersDir(), c.args[1]))
	}
	text := os.Expand(c.script.ReadFile(c.args[2]), c.script.Getenv)
	return reader.WritePeer(c.args[1], []byte(text))
}

// certificate lets a cluster's authority sign one: PREFIX.crt, PREFIX.key and
// PREFIX-ca.crt, the authority's own, in the script's folder.
func certificate(_ context.Context, c *call) error {
	cluster, err := c.cluster(c.args[0])
	if err != nil {
		return err
	}
	lifetime := time.Hour
	if len(c.args) > 4 {
		if lifetime, err = time.ParseDuration(c.args[4]); err != nil {
			return err
		}
	}
	_, err = c.issue(cluster, pki.Role(c.args[1]), c.args[2], c.script.MkAbs(c.args[3]), lifetime)
	return err
}

func (w *world) issue(c *lab.Cluster, role pki.Role, name, prefix string, lifetime time.Duration) (pki.ClientFiles, error) {
	files := pki.ClientFiles{CAFile: prefix + "-ca.crt", CertFile: prefix + ".crt", KeyFile: prefix + ".key"}
	authority, err := c.Authority()
	if err != nil {
		return files, err
	}
	pair, err := authority.Issue(pki.Request{Role: role, Name: name, TTL: lifetime})
	if err != nil {
		return files, err
	}
	if err := os.WriteFile(files.CAFile, authority.CertPEM(), 0o644); err != nil {
		return files, fmt.Errorf("write a certificate: %w", err)
	}
	return files, pair.Save(files.CertFile, files.KeyFile)
}
