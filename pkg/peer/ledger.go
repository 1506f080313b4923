package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// claimsPrefix is where a cluster keeps what was agreed with each peer:
// `<prefix><peer>` -> a record. It is the cluster's own and is read by no peer.
const claimsPrefix = "causeway/claims/v1/"

// record is what was agreed with a peer, and since when: of two that claim one
// range the first has it, after any restart too.
type record struct {
	Claims []trust.Claim `json:"claims"`
}

// ledger keeps the records in etcd. The replica that writes decides; the others
// follow it. Safe for concurrent use.
type ledger struct {
	etcd     *kvstore.Client
	election *kvstore.Election
	writer   *kvstore.Writer
	log      *slog.Logger
	// changed is told that the replica that writes has decided otherwise.
	changed func(peer string)

	mu      sync.Mutex
	records map[string]record
}

func newLedger(etcd *kvstore.Client, election *kvstore.Election, log *slog.Logger, changed func(string)) *ledger {
	return &ledger{
		etcd: etcd, election: election, log: log, changed: changed, records: map[string]record{},
		writer: kvstore.NewWriter(kvstore.WriterConfig{
			Client: etcd, Name: "claims_of_peers", Prefixes: []string{claimsPrefix}, Election: election, Logger: log,
		}),
	}
}

// load reads what earlier runs agreed, before any peer is judged.
func (l *ledger) load(ctx context.Context) error {
	return l.etcd.List(ctx, kvstore.Prefix(claimsPrefix), func(item kvstore.Item) error {
		l.note(kvstore.Change{Key: item.Key, Value: item.Value})
		return nil
	})
}

// run writes, or follows the replica that does, until ctx ends.
func (l *ledger) run(ctx context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.writer.Run(ctx) })
	g.Go(func() error {
		return l.etcd.Follow(ctx, kvstore.FollowConfig{Ranges: []kvstore.Range{kvstore.Prefix(claimsPrefix)}, Proof: wire.HeartbeatKey, Handler: (*ledgerInbox)(l), Logger: l.log})
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		l.log.Error("claims of peers are not kept any more", "error", err)
	}
}

// get returns what is agreed with a peer, nothing when nothing is.
func (l *ledger) get(peer string) record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[peer]
}

// peers returns those with which something is agreed, in no order.
func (l *ledger) peers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.records))
}

// put keeps what is agreed with a peer. It blocks on nothing.
func (l *ledger) put(peer string, r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[peer] = r
	value, err := json.Marshal(r)
	if err != nil { // of times and prefixes that parsed
		l.log.Error("claims of the peer are not kept", "cluster", peer, "error", err)
		return
	}
	l.writer.Set(claimsPrefix+peer, value)
}

// forget drops what was agreed with a peer.
func (l *ledger) forget(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.records, peer)
	l.writer.Delete(claimsPrefix + peer)
}

// writes reports whether this replica decides; if not, which one does, "" for none
// at present.
func (l *ledger) writes() (self bool, who string) {
	term, _ := l.election.Term()
	if term.Writes() {
		return true, ""
	}
	return false, l.election.Standing().Writer
}

// note takes in a record of an earlier run, or of another replica, and reports
// whether it differs.
func (l *ledger) note(c kvstore.Change) (peer string, differs bool) {
	peer = strings.TrimPrefix(c.Key, claimsPrefix)
	r, err := decodeRecord(c.Value)
	if err != nil {
		l.log.Warn("claims of the peer are passed over", "cluster", peer, "error", err)
		return peer, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, err := json.Marshal(l.records[peer]); err == nil && bytes.Equal(known, c.Value) {
		return peer, false
	}
	l.records[peer] = r
	l.writer.Set(c.Key, c.Value)
	return peer, true
}

func decodeRecord(value []byte) (record, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return record{}, err
	}
	for _, c := range r.Claims {
		if err := c.Validate(); err != nil {
			return record{}, fmt.Errorf("claims that were kept: %w", err)
		}
	}
	return r, nil
}

// ledgerInbox follows the records while another replica writes.
type ledgerInbox ledger

// Changes implements kvstore.Handler. What is gone may be gone with the store: who
// writes puts it back, and a peer that is removed is so here, too.
func (b *ledgerInbox) Changes(_ context.Context, changes []kvstore.Change) error {
	l := (*ledger)(b)
	if self, _ := l.writes(); self {
		return nil
	}
	for _, c := range changes {
		if c.Deleted {
			continue
		}
		if peer, differs := l.note(c); differs {
			l.changed(peer)
		}
	}
	return nil
}

// Complete implements kvstore.Handler.
func (b *ledgerInbox) Complete(context.Context) error { return nil }

// Trouble implements kvstore.Handler: what is known stays.
func (b *ledgerInbox) Trouble(error) {}
