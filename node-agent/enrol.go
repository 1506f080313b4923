package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

// A gateway that is away is asked again after firstEnrol at first, after lastEnrol in
// the end.
const (
	firstEnrol = time.Second
	lastEnrol  = 30 * time.Second
)

// enrol sees to it that there is a certificate: where none is valid it gets one for
// the token, if there is a token, and waits for a gateway that is away. A
// certificate of somebody else is left alone.
func enrol(ctx context.Context, cfg *config, log *slog.Logger) error {
	want := pki.Subject{Cluster: cfg.cluster, Role: pki.RoleAgent, Name: cfg.node}
	missing := cfg.files.CheckSubject(want)
	if missing == nil || errors.Is(missing, pki.ErrSubject) {
		return missing
	}
	if cfg.tokenFile == "" {
		return fmt.Errorf("%w; the way to a new one is a token: `causeway agent token %s`, then --join-token-file", missing, cfg.node)
	}
	pass, err := readToken(cfg)
	if err != nil {
		return fmt.Errorf("%w; a token is asked for since there is no valid certificate: %w", err, missing)
	}
	log.Info("no valid certificate, one is asked for by token", "token", pass.Name(), "reason", missing)
	again := retry.Backoff{First: firstEnrol, Limit: lastEnrol}
	for {
		err := stranger.Enrol(ctx, cfg.files, pass)
		if err == nil {
			log.Info("certificate for the token is here", "file", cfg.files.CertFile)
			return nil
		}
		if !errors.Is(err, stranger.ErrAway) && !errors.Is(err, pki.ErrBusy) {
			return fmt.Errorf("first certificate by --join-token-file %s: %w", cfg.tokenFile, err)
		}
		if time.Now().After(pass.Expires) { // by our clock; who made it was not reached to be asked
			return fmt.Errorf("first certificate by --join-token-file %s: the token ended at %s: make a new one with `causeway agent token %s`: %w",
				cfg.tokenFile, pass.Expires.Format(time.RFC3339), cfg.node, err)
		}
		delay := again.Next()
		log.Warn("no certificate yet, trying again", "attempt", again.Attempts(), "delay", delay, "error", err)
		if !retry.Sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}

// readToken returns the token of the file, if it is for this agent.
func readToken(cfg *config) (stranger.Pass, error) {
	text, err := os.ReadFile(cfg.tokenFile)
	if err != nil {
		return stranger.Pass{}, fmt.Errorf("read --join-token-file: %w", err)
	}
	pass, err := stranger.ParseToken(string(text))
	if err != nil {
		return stranger.Pass{}, fmt.Errorf("--join-token-file %s: %w", cfg.tokenFile, err)
	}
	if pass.Cluster != cfg.cluster || pass.Node != cfg.node {
		return stranger.Pass{}, fmt.Errorf("--join-token-file %s: it is for node %s of cluster %s, this is node %s of cluster %s: make one with `causeway agent token %s`",
			cfg.tokenFile, pass.Node, pass.Cluster, cfg.node, cfg.cluster, cfg.node)
	}
	return pass, nil
}
