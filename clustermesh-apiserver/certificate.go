package main

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/admin"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

// newRenewals is what signs the next certificates of agents and peers.
func newRenewals(cfg *config, authority *pki.Authority, log *slog.Logger, registry prometheus.Registerer) *renewal.Server {
	return renewal.NewServer(renewal.ServerConfig{
		Authority: authority, AgentTTL: cfg.agentTTL, PeerTTL: cfg.peerTTL,
		Certificate: gateway.CertificateOf, Top: gateway.TopOf, Root: gateway.RootOf, Extend: gateway.Extend, Logger: log, Registerer: registry,
	})
}

// certificates are those that agents show us, and that we show peers, as far as
// their holders have said how they stand.
func certificates(agents []feed.AgentStatus, agent func(node string) renewal.Standing, peers []peer.Status) []admin.Certificate {
	var out []admin.Certificate
	add := func(holder string, s renewal.Standing) {
		if !s.Ends.IsZero() {
			out = append(out, admin.Certificate{Holder: holder, Ends: s.Ends, Problem: s.Problem})
		}
	}
	for _, a := range agents {
		if a.Connected {
			add("agent "+a.Node, agent(a.Node))
		}
	}
	for _, p := range peers {
		add("this cluster at "+p.Name, p.Certificate)
	}
	return out
}
