package kvstore

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Heartbeat writes what value returns to the key now and every interval until
// ctx ends, then returns nil. The key goes when nothing was written for ttl
// (at least a second longer than interval, rounded up to whole seconds).
// Errors are logged and tried again. It returns an error only for a ttl that
// is too short.
func (c *Client) Heartbeat(ctx context.Context, key string, value func() []byte, interval, ttl time.Duration) error {
	if ttl < interval+time.Second {
		return fmt.Errorf("heartbeat %q: ttl %s is not longer than the interval %s", key, ttl, interval)
	}
	var again retry
	for {
		delay := interval
		err := c.beat(ctx, key, value(), ttl)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			first := again.delay == 0
			delay = again.next()
			if first {
				c.log.Warn("heartbeat could not be written, will be tried until it is", "key", key, "error", err, "delay", delay)
			}
		case again.delay > 0:
			again.reset()
			c.log.Info("heartbeat is written again", "key", key)
		}
		if !sleep(ctx, delay) {
			return nil
		}
	}
}

// beat writes the key under a lease of its own. The one before goes when its
// time is over, with no key on it; so nothing has to be kept alive, and a
// store that was wiped makes no difference.
func (c *Client) beat(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	seconds := int64((ttl + time.Second - 1) / time.Second)
	lease, err := pb.NewLeaseClient(c.etcd.ActiveConnection()).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds})
	if err != nil {
		return fmt.Errorf("grant lease of %s: %w", ttl, err)
	}
	if _, err := c.kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease.ID}); err != nil {
		return fmt.Errorf("put %q: %w", key, err)
	}
	return nil
}
