package kvstore

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxBatchOps   = 128
	maxBatchBytes = 512 << 10
)

// WriterConfig says what a writer owns.
type WriterConfig struct {
	Client *Client
	// Prefixes are what the writer owns, in the order in which things are to
	// be written; deletions go in the reverse order. One that does not end in
	// "/" is one key. They must not overlap.
	Prefixes []string
	// Name tells the writer from others in logs and metrics.
	Name       string
	Logger     *slog.Logger
	Registerer prometheus.Registerer // may be nil
}

// Failure is a value that the store refuses.
type Failure struct {
	Reason string
	Since  time.Time
}

// Writer makes the keys under its prefixes what it was told.
type Writer struct{}

// NewWriter makes a writer that writes nothing before Run.
func NewWriter(cfg WriterConfig) *Writer { return &Writer{} }

// Set makes value the key's value. It never blocks. The writer owns value from now on.
func (w *Writer) Set(key string, value []byte) {}

// Delete makes the key absent. It never blocks.
func (w *Writer) Delete(key string) {}

// Complete says that everything that should exist has been Set: from now on
// what the store has and nobody Set is deleted. It never blocks.
func (w *Writer) Complete() {}

// Synced waits until everything that was Set, Deleted and Completed before the
// call is in the store, but for what the store refuses (see Failures).
func (w *Writer) Synced(ctx context.Context) error { return ctx.Err() }

// Failures returns the keys whose value the store refuses at present.
func (w *Writer) Failures() map[string]Failure { return nil }

// Run writes until ctx ends, then returns nil. It may be called once.
func (w *Writer) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
