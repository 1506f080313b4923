package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/kube/ranges"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

// finder asks the Kubernetes API once for the ranges of the cluster's pods and
// Services, and compares them with those that flags say. It suggests: what other
// clusters hold this one to is what a person gave.
type finder struct {
	cfg    *config
	client *kube.Client // nil where the source is another
	log    *slog.Logger

	mu    sync.Mutex
	notes []string
}

// Run looks until the API server has answered.
func (f *finder) Run(ctx context.Context) error {
	if f.client == nil {
		return nil
	}
	pause := retry.Backoff{First: time.Second, Limit: time.Minute}
	for {
		found, err := f.client.FindRanges(ctx)
		if err == nil {
			f.take(&found)
			return nil
		}
		// Why it does not answer is told by the source, which asks all the time.
		f.log.Debug("ranges are not found, will retry", "error", err)
		if !retry.Sleep(ctx, pause.Next()) {
			return nil
		}
	}
}

func (f *finder) take(found *ranges.Found) {
	notes := f.cfg.compareRanges(found)
	f.mu.Lock()
	f.notes = notes
	f.mu.Unlock()
	f.log.Info("looked for the ranges of this cluster",
		"pods", ranges.Text(found.Pods.Ranges), "pods_from", found.Pods.From,
		"services", ranges.Text(found.Services.Ranges), "services_from", found.Services.From, "unread", found.Unread)
	for _, note := range notes {
		f.log.Warn("ranges of this cluster differ", "note", note)
	}
}

// Notes returns what differs, for the status. Safe for concurrent use.
func (f *finder) Notes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.notes
}

// compareRanges says where flags and objects differ. Objects that contradict each
// other are news only where flags do not decide.
func (c *config) compareRanges(found *ranges.Found) (out []string) {
	claims, _ := c.claims() // validate has seen them
	var pods []netip.Prefix
	for _, claim := range claims {
		if claim.Class == trust.Pods {
			pods = append(pods, claim.Range)
		}
	}
	services, _ := parseRanges(c.reservedCIDR)
	for _, part := range []struct {
		kind ranges.Kind
		flag string
		said []netip.Prefix
		*ranges.Part
	}{
		{ranges.Pods, "--pod-cidr", pods, &found.Pods},
		{ranges.Services, "--reserved-cidr", services, &found.Services},
	} {
		if note := part.Differ(part.kind, part.flag, part.said); note != "" {
			out = append(append(out, note), part.Notes...)
		}
	}
	return out
}
