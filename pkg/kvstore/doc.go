// Package kvstore is the only place that speaks to etcd: an embedded server,
// a client, the following of keys by list and watch, and a batched writer.
//
// It knows nothing of what keys and values mean; pkg/wire does.
//
// Three things that etcd's own client would do silently are done here in the
// open, because state that other clusters act upon depends on them: a watch
// that breaks is resumed only on proof that the store behind the address is
// still the one that was listed, else everything is listed again and compared;
// no request is retried behind the caller's back; and no call waits for a
// connection longer than it takes to know that there is none.
package kvstore
