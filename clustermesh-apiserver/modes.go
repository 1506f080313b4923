package main

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/probe"
)

// newEngine returns the engine that feeds nodes, what agents report of the ways to
// peers to, and what chooses by that where the flags leave it to us; the engine routes
// by it where meshed.
func newEngine(cfg *config, nodes merge.Sink, meshed bool, log *slog.Logger, registry *prometheus.Registry) (*merge.Engine, *probe.Server, *probe.Chooser) {
	engine := merge.NewEngine(cfg.clusterName, nodes)
	paths := probe.NewServer(probe.ServerConfig{Registerer: registry})
	modes := probe.NewChooser(probe.ChooserConfig{
		Auto: cfg.auto, Reports: paths.Reports, Changed: engine.Reroute, Logger: log, Registerer: registry,
	})
	if meshed {
		engine.Route(merge.Routing{Way: cfg.wayOf(modes.Way), Size: cfg.size(), Reserved: cfg.reserved()})
	}
	return engine, paths, modes
}
