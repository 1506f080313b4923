package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/clusterpeer"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/peer"
)

// resources are the ClusterPeers of the Kubernetes API; none where the source is
// another.
type resources struct{ *clusterpeer.Manager }

func newResources(cfg *config, client *kube.Client, election *kvstore.Election, peers *peer.Manager, told *feedback, log *slog.Logger, registry prometheus.Registerer) resources {
	if client == nil {
		return resources{}
	}
	return resources{clusterpeer.New(clusterpeer.Config{
		API: client, Cluster: cfg.clusterName, ID: cfg.cluster().ID, Dir: cfg.resources(), Files: cfg.peers(), Secrets: cfg.peerSecrets,
		Writes: func() bool {
			term, _ := election.Term()
			return term.Writes()
		},
		Peers: peers.Status, Beliefs: peers.Beliefs, Event: told.events.ReportPeer, Logger: log, Registerer: registry,
	})}
}

func (r resources) run(ctx context.Context) error {
	if r.Manager == nil {
		return nil
	}
	return r.Run(ctx)
}

// problem says why they are not read, and whether there are any to be read.
func (r resources) problem() (text string, are bool) {
	if r.Manager == nil {
		return "", false
	}
	return r.Problem(), true
}

// loaded is closed when they and what is given are known.
func (r resources) loaded(ctx context.Context, also <-chan struct{}) <-chan struct{} {
	if r.Manager == nil {
		return also
	}
	both := make(chan struct{})
	go func() {
		for _, one := range []<-chan struct{}{also, r.Loaded()} {
			select {
			case <-one:
			case <-ctx.Done():
				return
			}
		}
		close(both)
	}()
	return both
}

// resources is where pkg/clusterpeer keeps what they say, "" where there are none.
func (c *config) resources() string {
	if c.manifestsDir != "" {
		return ""
	}
	return filepath.Join(c.dataDir, "clusterpeers")
}
