package kvstore

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Heartbeat writes what value returns to the key now and every interval, in the
// terms of this process alone, until ctx ends, then returns nil. The key goes when nothing was written for ttl
// (at least a second longer than interval, rounded up to whole seconds).
// Errors are logged and tried again. It returns an error only for a ttl that
// is too short.
func (c *Client) Heartbeat(ctx context.Context, election *Election, key string, value func() []byte, interval, ttl time.Duration) error {
	if ttl < interval+time.Second {
		return fmt.Errorf("heartbeat %q: ttl %s is not longer than the interval %s", key, ttl, interval)
	}
	again := newBackoff()
	for {
		delay := interval
		term, changed := election.Term()
		var err error
		if term.Writes() {
			err = c.beat(ctx, term, key, value(), ttl)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case !term.Writes():
			again.Reset() // it is another replica's to write
		case err != nil:
			first := again.Attempts() == 0
			delay = again.Next()
			if first {
				c.log.Warn("heartbeat could not be written, will be tried until it is", "key", key, "error", err, "delay", delay)
			}
		case again.Attempts() > 0:
			again.Reset()
			c.log.Info("heartbeat is written again", "key", key)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(delay):
		}
	}
}

// beat writes the key under a lease of its own. The one before goes when its
// time is over, with no key on it; so nothing has to be kept alive, and a
// store that was wiped makes no difference.
func (c *Client) beat(ctx context.Context, term Term, key string, value []byte, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	seconds := int64((ttl + time.Second - 1) / time.Second)
	lease, err := pb.NewLeaseClient(c.etcd.ActiveConnection()).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds})
	if err != nil {
		return fmt.Errorf("grant lease of %s: %w", ttl, err)
	}
	put := &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease.ID}
	resp, err := c.kv.Txn(ctx, &pb.TxnRequest{
		Compare: term.conditions(),
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}},
	})
	if err == nil && !resp.Succeeded {
		err = ErrDeposed
	}
	if err != nil {
		return fmt.Errorf("put %q: %w", key, err)
	}
	return nil
}
