package kvstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// electionTTL is how long a writer that died keeps others waiting. etcd
	// looks for ended leases twice a second, and grants none of under 2 s.
	electionTTL = 8 * time.Second

	// standbyPeriod is how often a process that stands by looks whether there
	// is a writer. Looking is a read, which costs the store no disk write.
	standbyPeriod = 500 * time.Millisecond

	// resignTimeout bounds what a process does for the others as it ends.
	resignTimeout = time.Second
)

// ElectionConfig says who stands for election, and where.
type ElectionConfig struct {
	Client *Client
	// Name tells people which process it is. It decides nothing.
	Name string
	// TTL is how long a writer that stopped without a word is waited for;
	// etcd's own minimum may be more. 0 means 8 s.
	TTL        time.Duration
	Logger     *slog.Logger          // nil: the client's
	Registerer prometheus.Registerer // may be nil
}

// Election decides, in the store alone, which of the processes that share it
// writes. The one that creates the election key does, until the key goes: its
// lease ends when the process does, or stops for longer than TTL. A process
// that was stopped goes on to believe that it writes until the store tells it
// otherwise, and it need not know: see Term.
//
// A nil Election is that of a process that has its store for itself. Methods
// may be called concurrently.
type Election struct {
	cfg   ElectionConfig
	log   *slog.Logger
	lease int64 // the newest of ours; only Run has it

	mu       sync.Mutex
	term     Term
	changed  chan struct{} // closed and replaced when term changes
	standing Standing
	asked    time.Time // when the store last answered
}

// Standing is what is known of who writes.
type Standing struct {
	Writer string    // Name of the writer; empty for none
	Self   bool      // it is this process
	Since  time.Time // when this process learnt of it
	Err    error     // why it is not known at present; nil when it is
}

// NewElection returns an election in which this process does not stand before Run.
func NewElection(cfg ElectionConfig) *Election {
	if cfg.Logger == nil {
		cfg.Logger = cfg.Client.log
	}
	if cfg.TTL == 0 {
		cfg.TTL = electionTTL
	}
	e := &Election{cfg: cfg, log: cfg.Logger.With("replica", cfg.Name), changed: make(chan struct{})}
	e.standing.Err = errors.New("the store has not been asked yet")
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "causeway_kvstore_writer", Help: "1 while this process is the one of those that share the store that writes.",
		}, func() float64 {
			if term, _ := e.Term(); term.Writes() {
				return 1
			}
			return 0
		}))
	}
	return e
}

// Term returns the present term of this process, and a channel that is closed
// when it is another one.
func (e *Election) Term() (Term, <-chan struct{}) {
	if e == nil {
		return Alone(), nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.term, e.changed
}

// Standing says who writes, as far as this process knows.
func (e *Election) Standing() Standing {
	if e == nil {
		return Standing{Self: true}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.standing
}

// Run stands for election until ctx ends, then resigns, so that another process
// writes at once, and returns nil.
func (e *Election) Run(ctx context.Context) error {
	if e == nil {
		return nil
	}
	defer e.resign()
	for {
		period := standbyPeriod
		err := e.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		e.note(err)
		if term, _ := e.Term(); err == nil && term.Writes() {
			period = e.cfg.TTL / 4
		}
		if !retry.Sleep(ctx, period) {
			return nil
		}
	}
}

// look does what is next: keep the lease, or see who writes and become it.
func (e *Election) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.TTL/2)
	defer cancel()
	if term, _ := e.Term(); term.Writes() {
		if err := e.keep(ctx); err != nil {
			return err
		}
	}
	for range 2 {
		resp, err := e.cfg.Client.rangeOnce(ctx, &pb.RangeRequest{Key: []byte(electionKey)})
		if err != nil {
			return fmt.Errorf("look who writes: %w", err)
		}
		if len(resp.Kvs) > 0 {
			kv := resp.Kvs[0]
			// Ours it is also when the answer to its creation was lost.
			e.learn(string(kv.Value), kv.CreateRevision, kv.Lease != 0 && kv.Lease == e.lease)
			return nil
		}
		e.learn("", 0, false)
		if err := e.stand(ctx); err != nil {
			return err
		}
	}
	return nil // it was created, and has gone again
}

// keep renews the lease.
func (e *Election) keep(ctx context.Context) error {
	stream, err := e.leases().LeaseKeepAlive(ctx)
	if err != nil {
		return fmt.Errorf("keep lease %x: %w", e.lease, err)
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: e.lease}); err != nil {
		return fmt.Errorf("keep lease %x: %w", e.lease, err)
	}
	resp, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("keep lease %x: %w", e.lease, err)
	}
	if resp.TTL <= 0 {
		e.lease = 0 // it ended; whose the key is now is looked up
	}
	return stream.CloseSend()
}

// stand creates the election key if there still is none.
func (e *Election) stand(ctx context.Context) error {
	seconds := int64((e.cfg.TTL + time.Second - 1) / time.Second)
	lease, err := e.leases().LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds})
	if err != nil {
		return fmt.Errorf("grant lease of %s: %w", e.cfg.TTL, explain(err))
	}
	e.lease = lease.ID
	resp, err := e.cfg.Client.kv.Txn(ctx, &pb.TxnRequest{
		Compare: Term{}.conditions(), // there is none: it was created at revision 0
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{
			Key: []byte(electionKey), Value: []byte(e.cfg.Name), Lease: lease.ID,
		}}}},
	})
	if err != nil {
		return fmt.Errorf("put %q: %w", electionKey, err)
	}
	if !resp.Succeeded {
		e.revoke(ctx)
	}
	return nil
}

// learn takes in whose the election key is.
func (e *Election) learn(writer string, revision int64, ours bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := Term{}
	if ours {
		now = Term{revision: revision}
	}
	if was := e.term; now != was {
		e.term = now
		close(e.changed)
		e.changed = make(chan struct{})
		if now.Writes() {
			e.log.Info("this replica writes now", "revision", revision)
		} else {
			e.log.Info("this replica does not write any more")
		}
	} else if !ours && writer != e.standing.Writer && writer != "" {
		e.log.Info("another replica writes", "writer", writer)
	}
	if e.standing.Writer != writer || e.standing.Self != ours || e.standing.Since.IsZero() {
		e.standing.Writer, e.standing.Self, e.standing.Since = writer, ours, time.Now()
	}
}

// note keeps why it is not known who writes, once what was known is too old.
func (e *Election) note(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		if e.standing.Err != nil && !e.asked.IsZero() {
			e.log.Info("store answers again who writes")
		}
		e.asked, e.standing.Err = time.Now(), nil
		return
	}
	if e.standing.Err == nil && time.Since(e.asked) > e.cfg.TTL {
		e.log.Warn("it is not known who writes, will be asked until it is", "error", err)
	}
	if time.Since(e.asked) > e.cfg.TTL {
		e.standing.Err = err
	}
}

// resign ends the lease, and with it the key.
func (e *Election) resign() {
	e.learn("", 0, false)
	ctx, cancel := context.WithTimeout(context.Background(), resignTimeout)
	defer cancel()
	e.revoke(ctx)
}

// revoke ends the newest lease; what cannot be revoked ends by itself.
func (e *Election) revoke(ctx context.Context) {
	if e.lease == 0 {
		return
	}
	if _, err := e.leases().LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: e.lease}); err != nil {
		e.log.Debug("lease is left to end by itself", "error", err)
	}
	e.lease = 0
}

func (e *Election) leases() pb.LeaseClient {
	return pb.NewLeaseClient(e.cfg.Client.etcd.ActiveConnection())
}
