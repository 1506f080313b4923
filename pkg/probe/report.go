package probe

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/probe/probepb"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// lookTime is how often it is looked whether there is something to report,
	// reportTime how often there is a report though nothing has changed.
	lookTime   = time.Second
	reportTime = 15 * time.Second
	// itemsTime is how often what is ours in the node's network is listed.
	itemsTime = time.Minute
	callTime  = 10 * time.Second
	// maxItems is how many of them are reported.
	maxItems = 64
)

// Serve reports to the API server at the other end of conn until ctx ends, or the
// API server says that it takes no reports. It is not called twice at a time.
func (p *Prober) Serve(ctx context.Context, conn grpc.ClientConnInterface) {
	client := probepb.NewProbeClient(conn)
	var told *Report
	listed, items := time.Time{}, []Item(nil)
	backoff := retry.Backoff{First: lookTime, Limit: reportTime}
	for delay := time.Duration(0); retry.Sleep(ctx, delay); {
		delay = lookTime
		now := p.Report()
		if time.Since(listed) >= itemsTime && now.MTU > 0 {
			items, listed = p.items(items), time.Now()
		}
		if now.MTU > 0 {
			now.ItemCount, now.Items = len(items), items[:min(len(items), maxItems)]
		}
		if told != nil && same(told, now) && now.Time.Sub(told.Time) < reportTime {
			continue
		}
		err := call(ctx, client, now)
		switch status.Code(err) {
		case codes.OK:
			told = now
			backoff.Reset()
		case codes.Unimplemented, codes.PermissionDenied:
			p.config.Logger.Info("the API server takes no reports on the way to other clusters", "error", err)
			return
		default:
			delay = backoff.Next()
			p.config.Logger.Debug("the way to other clusters is not reported, trying again", "attempt", backoff.Attempts(), "delay", delay, "error", err)
		}
	}
}

func call(ctx context.Context, client probepb.ProbeClient, r *Report) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := client.Report(ctx, reportToProto(r))
	return err
}

// items returns those that there are, or those that there were.
func (p *Prober) items(were []Item) []Item {
	if p.config.Items == nil {
		return nil
	}
	items, err := p.config.Items()
	if err != nil {
		p.config.Logger.Warn("what is ours in the node's network is not listed", "error", err)
		return were
	}
	return items
}
