package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// handoutStep is how often files are looked at: they are small, and change
	// within seconds of a start and then when the authority does.
	handoutStep = time.Second
	// handoutAgain is after how long what others may have changed is written again.
	handoutAgain = time.Minute
	// What cannot be written is tried again after firstHandout at first, after
	// lastHandout in the end.
	firstHandout = time.Second
	lastHandout  = 30 * time.Second
)

// handout gives what others in the cluster need into the Kubernetes API: the admin
// file to the command line, the authority's certificate to agents' pods. Of
// several replicas the one that writes does so.
type handout struct {
	items    []*handoutItem
	writes   func() bool
	log      *slog.Logger
	attempts *prometheus.CounterVec
}

// handoutItem is a file that is kept in an object.
type handoutItem struct {
	flag, file string
	kept       kube.Kept
	write      func(context.Context, []byte) error

	written []byte
	next    time.Time // before then nothing is done, unless the file changes
	again   retry.Backoff

	mu      sync.Mutex
	problem error
}

// validateHandouts checks the flags.
func (c *config) validateHandouts() error {
	for flag, value := range map[string]string{"--admin-secret": c.adminSecret, "--authority-configmap": c.authorityMap} {
		if err := c.validateNamed(flag, value, "only Kubernetes has such objects"); err != nil {
			return err
		}
	}
	return nil
}

// validateNamed checks a flag that names an object as namespace/name, "" for none; since
// says why that takes the Kubernetes API.
func (c *config) validateNamed(flag, value, since string) error {
	if value == "" {
		return nil
	}
	if c.manifestsDir != "" {
		return fmt.Errorf("%s: %s, so --in-cluster or --kubeconfig is needed in place of --manifests-dir", flag, since)
	}
	if _, _, err := kube.ParseKept(value); err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// newHandout returns what keeps what the flags name; validate has seen them.
func newHandout(cfg *config, client *kube.Client, writes func() bool, log *slog.Logger, registry prometheus.Registerer) *handout {
	h := &handout{writes: writes, log: log, attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "causeway_handout_writes_total", Help: "Attempts to write the admin Secret and the authority's ConfigMap, by what it was and how it ended.",
	}, []string{"object", "result"})}
	registry.MustRegister(h.attempts)
	add := func(flag, value, file string, kept kube.Kept) {
		if value == "" {
			return
		}
		kept.Namespace, kept.Name, _ = kube.ParseKept(value)
		h.items = append(h.items, &handoutItem{
			flag: flag, file: file, kept: kept, again: retry.Backoff{First: firstHandout, Limit: lastHandout},
			write: func(ctx context.Context, value []byte) error { return client.Keep(ctx, kept, value) },
		})
	}
	add("admin-secret", cfg.adminSecret, filepath.Join(cfg.dataDir, "admin.yaml"), kube.Kept{Secret: true, Key: "admin.yaml"})
	add("authority-configmap", cfg.authorityMap, filepath.Join(cfg.dataDir, "pki", "ca.crt"), kube.Kept{Key: "ca.crt"})
	return h
}

// Problems returns what could not be written, and why.
func (h *handout) Problems() []string {
	var all []string
	for _, i := range h.items {
		i.mu.Lock()
		if i.problem != nil {
			all = append(all, fmt.Sprintf("--%s: %v", i.flag, i.problem))
		}
		i.mu.Unlock()
	}
	return all
}

// Run keeps the objects until ctx ends. They stay.
func (h *handout) Run(ctx context.Context) error {
	if len(h.items) == 0 {
		return nil
	}
	tick := time.NewTicker(handoutStep)
	defer tick.Stop()
	for {
		if h.writes() {
			for _, i := range h.items {
				h.step(ctx, i, time.Now())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// step writes the file where it is due.
func (h *handout) step(ctx context.Context, i *handoutItem, now time.Time) {
	value, err := os.ReadFile(i.file)
	if errors.Is(err, fs.ErrNotExist) {
		return // not made yet
	}
	failed := i.problem != nil // by this goroutine alone
	changed := err == nil && !bytes.Equal(value, i.written)
	if now.Before(i.next) && (failed || !changed) {
		return
	}
	if err == nil {
		err = i.write(ctx, value)
	}
	if ctx.Err() != nil {
		return
	}
	i.mu.Lock()
	i.problem = err
	i.mu.Unlock()
	if err != nil {
		delay := i.again.Next()
		i.next = now.Add(delay)
		h.attempts.WithLabelValues(i.flag, "error").Inc()
		h.log.Warn("object in the Kubernetes API is not written, will retry", "object", i.kept.String(), "attempt", i.again.Attempts(), "delay", delay, "error", err)
		return
	}
	h.attempts.WithLabelValues(i.flag, "ok").Inc()
	if i.written == nil || changed {
		h.log.Info("object in the Kubernetes API is written", "object", i.kept.String())
	}
	i.written, i.next = value, now.Add(handoutAgain)
	i.again.Reset()
}
