package source

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ManifestsConfig says where manifests are and who receives what is in them.
type ManifestsConfig struct {
	// Dir holds the manifests, sub-folders included.
	Dir string
	// StateDir keeps the last good content of each file. It is created when it
	// is missing and belongs to this source alone.
	StateDir   string
	Sink       Sink
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are kept but not exposed
}

// Problem is something about the manifests that a person has to put right.
type Problem struct {
	File    string    // relative to the directory; "." for the directory itself
	Line    int       // 1 and up; 0 when it is about the file as a whole
	Message string    // what is wrong, and what to do
	Since   time.Time // when it was first seen
}

// Manifests is a source that reads a directory of Kubernetes YAML and JSON.
type Manifests struct {
	cfg ManifestsConfig
}

// NewManifests returns a source that does nothing until Run.
func NewManifests(cfg ManifestsConfig) *Manifests {
	return &Manifests{cfg: cfg}
}

// Run gives the sink what is in the directory and follows its changes until
// ctx ends; it returns nil then, and the sink's error when that fails. It may be
// called once.
func (m *Manifests) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Problems returns what is wrong at present, sorted by file and line. It may be
// called at any time by any goroutine.
func (m *Manifests) Problems() []Problem {
	return nil
}
