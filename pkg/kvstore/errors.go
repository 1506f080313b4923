package kvstore

import "errors"

var (
	// ErrDirInUse: another process serves the data directory.
	ErrDirInUse = errors.New("data directory is in use by another process: stop it, or give this one a directory of its own")
	// ErrStopped: the server's Run has ended, so there is nothing to connect to.
	ErrStopped = errors.New("etcd server is stopped")
	// ErrOtherStore: what answers is not the store that was read before: it
	// was wiped, restored from a backup, or replaced.
	ErrOtherStore = errors.New("another store answers at this address")
	// ErrCompacted: the revision asked for is compacted away. Everything must be listed again.
	ErrCompacted = errors.New("revision is compacted")
	// ErrNotReady: a key that says that the store is complete is missing.
	ErrNotReady = errors.New("store is not ready yet")
	// ErrFenced: somebody else has written the writer's fence, or the store is another one.
	ErrFenced = errors.New("fence was moved: is another process writing to this store?")
	// ErrDeposed: another process writes to the store by now, this one must not.
	ErrDeposed = errors.New("another replica writes now")
	// ErrStandby: another process writes to the store, so this one waits.
	ErrStandby = errors.New("this replica does not write")
	// ErrNoSpace: the store is out of quota: it deletes, and puts nothing.
	ErrNoSpace = errors.New("etcd is out of quota, so nothing but deletions goes through: compact and defragment an external one and disarm its alarm, " +
		"an embedded one does so by itself; if that makes no room, raise the quota")
	// ErrUnasked: the store answers with keys that it was not asked for. A store
	// that another cluster runs may say anything.
	ErrUnasked = errors.New("store answers with what it was not asked for: is it an etcd, and does nothing on the way change keys?")
	// ErrNoHeader: an answer does not say of which store and revision it is.
	ErrNoHeader = errors.New("store does not say which it is, or at which revision: is it an etcd?")
	// ErrTooManyKeys: the store has more keys than its reader remembers.
	ErrTooManyKeys = errors.New("store has more keys than are remembered of it")
	// ErrWatchStuck: the watch stream is open but nothing comes through it.
	ErrWatchStuck = errors.New("watch stream is silent")
)
