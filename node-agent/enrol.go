package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
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
// a token, if there is a token, and waits for a gateway that is away. A
// certificate of somebody else is left alone.
func enrol(ctx context.Context, cfg *config, log *slog.Logger) error {
	if err := cfg.forgetAuthority(log); err != nil {
		return err
	}
	want := pki.Subject{Cluster: cfg.cluster, Role: pki.RoleAgent, Name: cfg.node}
	missing := cfg.files.CheckSubject(want)
	if missing == nil || errors.Is(missing, pki.ErrSubject) {
		return missing
	}
	flag, try, err := cfg.way(missing, log)
	if err != nil {
		return err
	}
	again := retry.Backoff{First: firstEnrol, Limit: lastEnrol}
	for {
		err := try(ctx)
		if err == nil {
			log.Info("certificate for the token is here", "file", cfg.files.CertFile)
			return nil
		}
		if !errors.Is(err, stranger.ErrAway) && !errors.Is(err, pki.ErrBusy) || errors.Is(err, errEnded) {
			return fmt.Errorf("first certificate by %s: %w", flag, err)
		}
		delay := again.Next()
		log.Warn("no certificate yet, trying again", "attempt", again.Attempts(), "delay", delay, "error", err)
		if !retry.Sleep(ctx, delay) {
			return ctx.Err()
		}
	}
}

// lookAgain is how often a running agent looks whether its certificate has ended.
const lookAgain = 10 * time.Second

// Why there is no new certificate is logged again after noWay, another reason sooner.
const (
	otherWay = time.Minute
	noWay    = 6 * time.Hour
)

// stayEnrolled gets another certificate, as enrol does, whenever the one that is there has
// ended: no gateway takes it any more, so nobody renews it. Where there is no way to one,
// the log says so. It returns when ctx ends.
func stayEnrolled(ctx context.Context, cfg *config, every time.Duration, log *slog.Logger) {
	var told retry.Reason
	for retry.Sleep(ctx, every) {
		cert, err := cfg.files.Certificate()
		if err != nil || time.Now().Before(cert.NotAfter) {
			continue // who dials says what is wrong with the file
		}
		err = enrol(ctx, cfg, log)
		if err != nil && ctx.Err() == nil && told.Tell(err.Error(), time.Now(), otherWay, noWay) {
			log.Error("certificate has ended, and there is no new one; what was received stays in effect", "error", err)
		}
	}
}

// forgetAuthority removes certificate and key where --authority-file says that the
// cluster has another authority altogether: it was installed anew, or lost its state.
// Nobody there takes them, nor would the agent believe anybody. An authority that is
// rotated is not another one: both texts name it for a while.
func (c *config) forgetAuthority(log *slog.Logger) error {
	if c.authorityFile == "" {
		return nil
	}
	given, err := os.ReadFile(c.authorityFile)
	known, knownErr := os.ReadFile(c.files.CAFile)
	if err != nil || knownErr != nil || pki.InCommon(given, known) {
		return nil //nolint:nilerr // a first certificate, or what is wrong with the files is said later
	}
	if _, _, err := stranger.CheckAuthority(c.cluster, given); err != nil {
		return fmt.Errorf("%s: %w", c.authorityFile, err)
	}
	log.Warn("this cluster has another authority than the node's certificate, a new one is asked for", "file", c.files.CertFile, "authority", c.authorityFile)
	for _, path := range []string{c.files.CertFile, c.files.KeyFile, c.files.CAFile} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget the authority before: %w", err)
		}
	}
	return nil
}

// errEnded is for a token that ended while no gateway could be asked.
var errEnded = errors.New("the token ended")

// way returns how there comes to be a certificate where one is missing: by which flag,
// and what tries it once.
func (c *config) way(missing error, log *slog.Logger) (flag string, try func(context.Context) error, err error) {
	if c.accountFile != "" {
		log.Info("no valid certificate, one is asked for by the service account's token", "reason", missing)
		return "--service-account-token-file " + c.accountFile, c.tryAccount, nil
	}
	if c.tokenFile == "" {
		return "", nil, fmt.Errorf("%w; the way to a new one is a token: `causeway agent token %s`, then --join-token-file", missing, c.node)
	}
	pass, err := readToken(c)
	if err != nil {
		return "", nil, fmt.Errorf("%w; a token is asked for since there is no valid certificate: %w", err, missing)
	}
	warnOfReaders(c.tokenFile, log)
	log.Info("no valid certificate, one is asked for by token", "token", pass.Name(), "reason", missing)
	return "--join-token-file " + c.tokenFile, func(ctx context.Context) error {
		err := stranger.Enrol(ctx, c.files, pass)
		again := errors.Is(err, stranger.ErrAway) || errors.Is(err, pki.ErrBusy)
		if again && time.Now().After(pass.Expires) { // by our clock; who made it was not reached to be asked
			return fmt.Errorf("%w at %s: make a new one with `causeway agent token %s`: %w", errEnded, pass.Expires.Format(time.RFC3339), c.node, err)
		}
		return err
	}, nil
}

// tryAccount reads the token each time: Kubernetes writes a new one before it ends.
func (c *config) tryAccount(ctx context.Context) error {
	text, err := os.ReadFile(c.accountFile)
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return errors.New("the file is empty")
	}
	return stranger.EnrolAccount(ctx, c.files, stranger.Account{
		Cluster: c.cluster, Node: c.node, Addresses: strings.Split(c.apiServer, ","), AuthorityFile: c.authorityFile, Token: token,
	})
}

// warnOfReaders says that others than the file's owner may read a secret in it: who does
// so first gets the certificate.
func warnOfReaders(path string, log *slog.Logger) {
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		log.Warn("others may read the token: whoever uses it first gets this node's certificate; run chmod 600",
			"file", path, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
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
