package renewal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal/renewalpb"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

// trustTimeout is longer than a gateway keeps who trusts what is right waiting.
const trustTimeout = 10 * time.Minute

// follow keeps the cluster's authorities in the file of what is trusted, and renews
// the certificate when another one signs, while ctx lasts. What the gateway says is
// believed since the connection was verified against what is trusted till now.
func (k *Keeper) follow(ctx context.Context, holder rotationpb.HolderClient, client renewalpb.RenewalClient) {
	backoff := retry.Backoff{First: minRetry, Limit: maxRetry}
	var told retry.Reason
	var often pace
	for {
		changed, err := k.followOnce(ctx, holder, client)
		var wait time.Duration
		switch code := status.Code(err); {
		case ctx.Err() != nil:
			return
		case code == codes.Unimplemented || code == codes.PermissionDenied: // of another make, or older
			wait = lookEvery
		case err != nil:
			wait = backoff.Next()
			// That the connection is lost is told by who made it.
			if text := clean(err.Error()); code != codes.Unavailable && told.Tell(text, time.Now(), tellOther, tellAgain) {
				k.cfg.Logger.Warn("authority of the cluster is not followed, trying again", "attempt", backoff.Attempts(), "delay", wait, "error", text)
			}
		case changed:
			backoff.Reset()
			wait = often.next(time.Now())
			if wait > 0 && told.Tell("often", time.Now(), tellOther, tellAgain) {
				k.cfg.Logger.Warn("gateway has certificate or trusted authorities changed again and again, it is followed more slowly", "delay", wait)
			}
		default: // it was waited for there; one that does not wait is not asked all the time
			backoff.Reset()
			wait = minRetry
		}
		if !retry.Sleep(ctx, wait) {
			return
		}
	}
}

// freeChanges is how many changes are made at once: a rotation has three, and an operator
// may begin the next one when it has ended.
const freeChanges = 12

// pace bounds what a gateway can have written here, to disk, to etcd and to the log: one
// that always says something else would otherwise be followed as quickly as it answers.
type pace struct {
	last    time.Time
	changes int
	backoff retry.Backoff
}

// next returns how long to wait after a change. After a time without one it begins anew.
func (p *pace) next(now time.Time) time.Duration {
	if now.Sub(p.last) > 2*maxRetry {
		*p = pace{backoff: retry.Backoff{First: minRetry, Limit: maxRetry}}
	}
	p.last = now
	if p.changes++; p.changes <= freeChanges {
		return 0
	}
	return p.backoff.Next()
}

// maxTrusted is how many certificates a gateway lets itself be told.
const maxTrusted = 64

// followOnce says whether anything has changed.
func (k *Keeper) followOnce(ctx context.Context, holder rotationpb.HolderClient, client renewalpb.RenewalClient) (bool, error) {
	trusted, _, err := k.cfg.Files.Trusted()
	if err != nil {
		return false, err
	}
	if len(trusted) > maxTrusted {
		return false, fmt.Errorf("%s holds %d certificates, more than %d: give a file with those of cluster %s alone, into which its next one is written",
			k.cfg.Files.CAFile, len(trusted), maxTrusted, k.cfg.Cluster)
	}
	chain, err := os.ReadFile(k.cfg.Files.CertFile)
	if err != nil {
		return false, fmt.Errorf("read client certificate: %w", err)
	}
	answer, err := k.askTrust(ctx, holder, &rotationpb.TrustRequest{Trusted: texts(trusted), Chain: chain})
	if err != nil {
		return false, err
	}
	changed, err := k.cfg.Files.Trust(k.cfg.Cluster, answer.GetAuthorities())
	if err != nil {
		return false, fmt.Errorf("what %s says of its authorities: %w", k.cfg.Cluster, err)
	}
	if changed {
		k.cfg.Logger.Info("authorities of the cluster have changed, the new ones are trusted", "file", k.cfg.Files.CAFile)
		k.cfg.Changed()
	}
	if !answer.GetRenew() {
		return changed, nil
	}
	renewed, err := k.cfg.Files.RenewEarly(k.cfg.Now(), k.ask(ctx, client))
	if errors.Is(err, pki.ErrBusy) { // which may be for the same reason
		return changed, nil
	}
	if renewed {
		k.note("")
		k.tellRenewed()
	}
	return changed || renewed, err
}

func (k *Keeper) askTrust(ctx context.Context, holder rotationpb.HolderClient, r *rotationpb.TrustRequest) (*rotationpb.TrustResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, trustTimeout)
	defer cancel()
	return holder.Trust(ctx, r)
}

func (k *Keeper) tellRenewed() {
	k.cfg.Metrics.attempts.WithLabelValues(k.cfg.Cluster, "ok").Inc()
	k.cfg.Logger.Info("certificate renewed", "ends", k.Standing().Ends)
	k.cfg.Changed()
}

func texts(prints [][sha256.Size]byte) [][]byte {
	out := make([][]byte, 0, len(prints))
	for _, p := range prints {
		out = append(out, p[:])
	}
	return out
}
