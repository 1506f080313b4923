package kvstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

// quotaPeriod is how often the server looks whether it is out of quota. No write
// goes through until it does, and looking costs nothing.
const quotaPeriod = 2 * time.Second

// quota gets a server out of the alarm that etcd raises when its database
// reaches the quota, and that it would keep until a person clears it. What
// fills a database is history: compacting and defragmenting it gives the space
// back. If the keys themselves are too many, only a larger quota helps, or that
// they become fewer: deletions go through meanwhile.
type quota struct {
	etcd     *etcdserver.EtcdServer
	bytes    int64
	log      *slog.Logger
	told     bool  // that it does not help
	revision int64 // of the store when it was tried last
	skip     int   // looks that do nothing, after that
}

// skipLooks is how many looks pass, after one that did not help, before making
// room is tried whatever the size says: pages that compaction freed count as
// used until the next write, and there is none.
const skipLooks = 50

// run looks after the quota until ctx ends.
func (q *quota) run(ctx context.Context, period time.Duration) {
	for {
		if err := q.look(ctx); err != nil && ctx.Err() == nil {
			q.log.Warn("etcd database could not be made smaller, will be tried again", "error", err)
		}
		if !retry.Sleep(ctx, period) {
			return
		}
	}
}

// look acts if the alarm is raised.
func (q *quota) look(ctx context.Context) error {
	alarms := slices.DeleteFunc(q.etcd.Alarms(), func(a *pb.AlarmMember) bool { return a.Alarm != pb.AlarmType_NOSPACE })
	if len(alarms) == 0 {
		q.told = false
		return nil
	}
	if q.told && !q.roomy() {
		if q.revision < q.etcd.KV().Rev() {
			return q.compact(ctx) // what was deleted shows as room in a later look
		}
		if q.skip--; q.skip >= 0 {
			return nil
		}
	}
	q.skip = skipLooks
	if err := q.shrink(ctx); err != nil {
		return err
	}
	size := q.etcd.Backend().Size()
	if !q.roomy() {
		if q.told {
			return nil
		}
		q.told = true
		q.log.Error("etcd is out of quota and accepts no writes: give it a larger quota", "quota_bytes", q.bytes, "used_bytes", size)
		return nil
	}
	for _, a := range alarms {
		_, err := q.etcd.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm})
		if err != nil {
			return fmt.Errorf("clear alarm: %w", err)
		}
	}
	q.log.Info("etcd was out of quota, its history was dropped to make room", "quota_bytes", q.bytes, "used_bytes", size)
	return nil
}

// roomy says whether so much is free that the alarm would not be back at once.
func (q *quota) roomy() bool {
	return q.etcd.Backend().SizeInUse() < q.bytes/10*9
}

// shrink drops all history and gives the free pages back.
func (q *quota) shrink(ctx context.Context) error {
	if err := q.compact(ctx); err != nil {
		return err
	}
	if err := q.etcd.Defragment(); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	return nil
}

func (q *quota) compact(ctx context.Context) error {
	q.revision = q.etcd.KV().Rev()
	_, err := q.etcd.Compact(ctx, &pb.CompactionRequest{Revision: q.revision, Physical: true})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return fmt.Errorf("compact at revision %d: %w", q.revision, err)
	}
	return nil
}
