package kvstore

// Range is a set of neighbouring keys. The zero value is the empty key, which
// no store holds.
type Range struct {
	key string
	end string // exclusive; "" means key alone, "\x00" everything from key on
}

// Key is the range that holds one key.
func Key(key string) Range { return Range{key: key} }

// Prefix is the range of all keys that begin with prefix. The prefix should
// end in a separator: "a/" holds nothing of "ab/".
func Prefix(prefix string) Range {
	if prefix == "" {
		return Range{key: "\x00", end: "\x00"}
	}
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return Range{key: prefix, end: string(end[:i+1])}
		}
	}
	return Range{key: prefix, end: "\x00"}
}

// String returns the first key of the range, with a star when there are more.
func (r Range) String() string {
	if r.end == "" {
		return r.key
	}
	return r.key + "*"
}

// contains says whether key is in the range.
func (r Range) contains(key string) bool {
	switch r.end {
	case "":
		return key == r.key
	case "\x00":
		return key >= r.key
	}
	return key >= r.key && key < r.end
}

// from returns the part of the range that begins behind key.
func (r Range) from(key string) Range {
	return Range{key: key + "\x00", end: r.end}
}

// Item is a key with its value as it is in the store.
type Item struct {
	Key      string
	Value    []byte
	Revision int64 // of the store, when the value was written
}

// Change is a key's new value, or its end. The receiver owns Value.
type Change struct {
	Key      string
	Value    []byte // nil when Deleted
	Revision int64  // of the store, when it was made; 0 for a deletion found by listing
	Deleted  bool
}
