package gateway

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal/renewalpb"
)

// A stream lasts as long as the newest certificate of its connection, which may
// be renewed more than once, and never for a shorter time than before.
func TestLasting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		c := &connection{until: begin.Add(time.Hour)}
		ctx, cancel := c.lasting(t.Context())
		defer cancel()
		for _, step := range []struct{ at, until time.Duration }{
			{30 * time.Minute, 2 * time.Hour},
			{90 * time.Minute, 3 * time.Hour},
			{150 * time.Minute, time.Minute},
		} {
			time.Sleep(time.Until(begin.Add(step.at)))
			if ctx.Err() != nil {
				t.Fatalf("ended before %s", step.at)
			}
			c.extend(begin.Add(step.until))
		}
		time.Sleep(29 * time.Minute)
		if ctx.Err() != nil {
			t.Error("a shorter certificate shortened it")
		}
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, errEnded) || time.Since(begin) != 3*time.Hour {
			t.Errorf("ended after %s by %v", time.Since(begin), cause)
		}
		if _, cancel := c.lasting(t.Context()); c.left() > 0 {
			t.Error("time is left")
		} else {
			cancel()
		}
	})
}

// renewed opens a watch with a certificate that is good for ttl, and gets another
// one on the same connection. An error may come of a machine that was too slow.
func (b *bed) renewed(ttl time.Duration) (stream pb.Watch_WatchClient, ends time.Time, err error) {
	b.t.Helper()
	config := b.clientTLS(pki.RolePeer, "west", ttl)
	ends = time.Now().Add(ttl)
	conn := b.dialTLS(config)
	if stream, err = pb.NewWatchClient(conn).Watch(b.ctx()); err != nil {
		return nil, ends, err
	}
	if err = stream.Send(create(nodes, nodesEnd)); err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		return nil, ends, err
	}
	_, csrPEM, err := pki.NewSigningRequest()
	if err == nil {
		_, err = renewalpb.NewRenewalClient(conn).Renew(b.ctx(), &renewalpb.RenewRequest{Request: csrPEM})
	}
	return stream, ends, err
}

// A watch goes on beyond the certificate that it was opened with: what the caller
// was given meanwhile counts.
func TestRenewalKeepsWatch(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	ttl := 3 * time.Second
	stream, ends, err := b.renewed(ttl)
	for err != nil && ttl < time.Minute {
		ttl *= 3
		stream, ends, err = b.renewed(ttl)
	}
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(ends.Add(time.Second)))
	b.put(nodes+"node-1", "a")
	if event := b.next(stream); len(event.Events) != 1 || string(event.Events[0].Kv.Value) != "a" {
		t.Errorf("event %v", event)
	}
	b.ask(stream, create("cilium/.heartbeat", "cilium/.heartbeau"))
}

func TestOutsideOfACall(t *testing.T) {
	if cert, ok := CertificateOf(t.Context()); ok {
		t.Errorf("certificate %v", cert)
	}
	Extend(t.Context(), time.Now()) // changes nothing
}
