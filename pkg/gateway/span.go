package gateway

import (
	"bytes"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// span is the keys from start up to but not including end.
type span struct {
	start, end []byte
}

type spans []span

// readableRanges returns what a peer of the cluster may read. The heartbeat may
// also be read as a prefix, which is how the reference watches it.
func readableRanges(cluster string) spans {
	keys, prefixes := wire.Readable(cluster)
	var all spans
	for _, key := range keys {
		if key == wire.HeartbeatKey {
			prefixes = append(prefixes, key)
			continue
		}
		all = append(all, span{start: []byte(key), end: append([]byte(key), 0)})
	}
	for _, prefix := range prefixes {
		all = append(all, span{start: []byte(prefix), end: after(prefix)})
	}
	return all
}

// after returns the first key that is greater than every key with the prefix.
// The protocol's prefixes are text, so their last byte can be raised.
func after(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

// contain reports whether a request's range lies wholly inside one span. In
// etcd an empty end means key alone, an empty key and an end of one zero byte
// mean everything before and after: neither is inside anything here.
func (all spans) contain(key, end []byte) bool {
	if len(end) == 0 {
		end = append(bytes.Clone(key), 0)
	}
	for _, s := range all {
		if bytes.Compare(s.start, key) <= 0 && bytes.Compare(key, end) < 0 && bytes.Compare(end, s.end) <= 0 {
			return true
		}
	}
	return false
}
