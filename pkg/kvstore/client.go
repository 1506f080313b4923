package kvstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// A server that froze or a wire that was cut is noticed after their sum.
	// gRPC allows no shorter time, and servers commonly allow no shorter than 5 s.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second

	// requestTimeout bounds one request. It is above etcd's own 5 s plus
	// elections, so that etcd's answer, which says more, comes first.
	requestTimeout = 10 * time.Second

	// maxMessageBytes bounds what one answer can make us hold. Pages that do
	// not fit are asked for again with fewer keys.
	maxMessageBytes = 16 << 20

	pageKeys = 256

	// readBuffer is what a connection reads at once, in bytes. There is one to
	// each peer, mostly idle: what it takes for itself counts a hundred times.
	readBuffer = 8 << 10

	// maxCommits is how many large transactions are under way at once: enough
	// for a store to write them to the disk together, and few of the buffers of
	// 1 MiB that gRPC takes for each. The others wait in the order in which they
	// came, so that a writer with much to write holds up no other.
	maxCommits = 16
)

// ClientConfig says where a store is.
type ClientConfig struct {
	// Endpoints are https://host:port or unix:///path; all must serve one store.
	Endpoints []string
	TLS       *tls.Config // nil for unix sockets
	Logger    *slog.Logger
}

// Client is a connection to a store. Its methods may be called concurrently.
// It connects when first used and again by itself; while there is no
// connection calls fail at once with the reason.
type Client struct {
	etcd    *clientv3.Client
	kv      pb.KVClient
	log     *slog.Logger
	commits *semaphore.Weighted
}

// Dial makes a client. It blocks on nothing: wrong addresses show in the calls.
// The caller closes it.
func Dial(cfg ClientConfig) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("dial etcd: no endpoints are given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	connect := backoff.DefaultConfig
	connect.BaseDelay, connect.MaxDelay = firstDelay, lastDelay
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		Logger:               quiet(cfg.Logger),
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		MaxCallRecvMsgSize:   maxMessageBytes,
		MaxUnaryRetries:      1, // retries are ours, with their errors shown
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: connect, MinConnectTimeout: 5 * time.Second}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
			grpc.WithReadBufferSize(readBuffer),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("dial etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return &Client{
		etcd: etcd, kv: pb.NewKVClient(etcd.ActiveConnection()), log: cfg.Logger, commits: semaphore.NewWeighted(maxCommits),
	}, nil
}

// Move has the client use other endpoints, of the same store. What is under way at one
// that stays goes on.
func (c *Client) Move(endpoints []string) { c.etcd.SetEndpoints(endpoints...) }

// Close ends the connection and everything that runs on it.
func (c *Client) Close() error {
	if err := c.etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}

// Etcd is the client underneath, for the gateway, which passes requests on as they are.
func (c *Client) Etcd() *clientv3.Client { return c.etcd }

// Get reads one key. The read is linearizable.
func (c *Client) Get(ctx context.Context, key string) (value []byte, found bool, err error) {
	resp, err := c.rangeOnce(ctx, &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		return nil, false, fmt.Errorf("get %q: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, false, nil
	}
	return resp.Kvs[0].Value, true, nil
}

// Put writes one key.
func (c *Client) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := c.kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: value}); err != nil {
		return fmt.Errorf("put %q: %w", key, err)
	}
	return nil
}

// commit makes one transaction, which may be large, when its turn has come.
func (c *Client) commit(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := c.commits.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer c.commits.Release(1)
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.kv.Txn(ctx, req)
}

// Delete removes one key. That the key is not there is no error.
func (c *Client) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := c.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)}); err != nil {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return nil
}

// List gives fn every key of the range in key order, all as of one revision,
// and holds one page at a time. An error of fn ends it and is returned.
func (c *Client) List(ctx context.Context, r Range, fn func(Item) error) error {
	_, err := c.list(ctx, r, 0, func(resp *pb.RangeResponse) error {
		for _, kv := range resp.Kvs {
			if err := fn(Item{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// list pages through a range as of revision (0: now) and returns the header
// that says of which store and revision it was.
func (c *Client) list(ctx context.Context, r Range, revision int64, page func(*pb.RangeResponse) error) (*pb.ResponseHeader, error) {
	rest, limit := r, int64(pageKeys)
	var header *pb.ResponseHeader
	for {
		resp, err := c.rangeOnce(ctx, &pb.RangeRequest{Key: []byte(rest.key), RangeEnd: []byte(rest.end), Limit: limit, Revision: revision})
		if isTooLarge(err) && limit > 1 {
			limit /= 2
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %q at revision %d: %w", r, revision, err)
		}
		if header != nil && resp.Header.GetClusterId() != header.GetClusterId() {
			return nil, fmt.Errorf("list %q at revision %d: %w", r, revision, ErrOtherStore)
		}
		if header == nil {
			header = resp.Header
		}
		if revision == 0 {
			revision = resp.Header.GetRevision()
		}
		for _, kv := range resp.Kvs {
			if !rest.contains(string(kv.Key)) {
				return nil, fmt.Errorf("list %q at revision %d: %w: %.100q", r, revision, ErrUnasked, kv.Key)
			}
		}
		if err := page(resp); err != nil {
			return nil, err
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return header, nil
		}
		rest = rest.from(string(resp.Kvs[len(resp.Kvs)-1].Key))
	}
}

// rangeOnce makes one read, bounded in time, and names compaction. It returns only
// answers that say of which store and revision they are: without the revision the
// parts of a list could be of several.
func (c *Client) rangeOnce(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.kv.Range(ctx, req)
	if err == nil && (resp.Header.GetRevision() <= 0 || resp.Header.GetClusterId() == 0) {
		return nil, ErrNoHeader
	}
	return resp, explain(err)
}

// explain wraps what etcd says in the sentinels of this package where the
// difference matters to us.
func explain(err error) error {
	code := status.Code(err)
	if code != codes.OutOfRange && code != codes.ResourceExhausted {
		return err
	}
	switch text := status.Convert(err).Message(); {
	case strings.Contains(text, "database space exceeded"):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case strings.Contains(text, "compacted"):
		return fmt.Errorf("%w: %w", ErrCompacted, err)
	case strings.Contains(text, "future revision"):
		return fmt.Errorf("%w: %w", ErrOtherStore, err)
	}
	return err
}

// isTooLarge says whether gRPC on either side refused a message for its size.
func isTooLarge(err error) bool {
	return status.Code(err) == codes.ResourceExhausted &&
		strings.Contains(status.Convert(err).Message(), "larger than max")
}
