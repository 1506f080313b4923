package peer

import (
	"context"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

// keepCertificate renews the certificate that file names, over the connection by
// which the peer is read, until ctx ends.
func (s *session) keepCertificate(ctx context.Context, file File, client *kvstore.Client) {
	k := renewal.NewKeeper(renewal.KeeperConfig{Files: file.TLS, Cluster: s.name, Logger: s.log, Metrics: s.metrics.renewal, Changed: s.renewed})
	s.mu.Lock()
	s.keeper = k
	s.mu.Unlock()
	k.Look()
	k.Serve(ctx, client.Etcd().ActiveConnection())
}
