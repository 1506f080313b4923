package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/rotation"
)

// newRotation returns what replaces the authority, and what of the gateway's
// connections it has to know. It asks what is closed when the gateway listens, and what
// was issued, later.
func newRotation(
	cfg *config, authority *pki.Authority, etcd *kvstore.Client, exclusions *gateway.Exclusions, listening func() <-chan struct{}, issued func() []join.Issued,
	log *slog.Logger, registry prometheus.Registerer,
) *rotation.Manager {
	dir := filepath.Join(cfg.dataDir, "pki")
	m := rotation.New(rotation.Config{
		Authority: authority, File: filepath.Join(dir, "holders.json"), Connections: exclusions,
		Certificate: gateway.CertificateOf, Moved: gateway.Moved, Listening: listening, Shared: len(cfg.etcdEndpoints) > 0,
		Replaced: func(ctx context.Context) error {
			if len(cfg.etcdEndpoints) == 0 {
				return nil
			}
			return ownerOf(authority).claim(ctx, etcd, cfg.etcdEndpoints, dir)
		},
		Issued: func() (out []rotation.Issued) {
			for _, i := range issued() {
				out = append(out, rotation.Issued(i))
			}
			return out
		},
		Logger: log, Registerer: registry,
	})
	exclusions.Watch(gateway.Roots{Of: authority.RootOf, Seen: m.Seen})
	return m
}
