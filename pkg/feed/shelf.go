package feed

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Both ends of a stream sort the resources of a kind into the same buckets, by
// a hash of their keys, and a digest stands for each bucket. So an agent that
// meets a server which does not know what it was sent can be told exactly the
// buckets that differ.
//
// A digest is the first half of a SHA-256 over the encodings in the order of
// their keys. Two states of a bucket that differ by chance have the same one
// with a probability of 2^-128; who may choose what is published would have to
// try 2^64 states to find two with the same digest, and then to change one for
// the other just while the API server restarts. The wrong match would end with
// the next change in the bucket.
//
// An encoding is the same in all processes of one version. Another version may
// encode otherwise: its resources are sent again, nothing else.
const (
	bucketCount = 4096
	digestSize  = 16
)

type digest [digestSize]byte

// item is what a shelf holds.
type item interface {
	ident() string // the key's text
	size() int     // of the encoding, in bytes
	appendTo([]byte) []byte
}

// shelf holds the resources of one kind in their buckets. It is not safe for
// concurrent use.
type shelf[T item] struct {
	// buckets are sorted by key; nil while the shelf was never used.
	buckets [][]T
	count   int
	// digests are right for the buckets that are not stale; an empty bucket's
	// is zero.
	digests []digest
	stale   [bucketCount / 64]uint64
	root    digest
	fresh   bool // root is right
}

// bucketOf is FNV-1a, folded. It only spreads the keys.
func bucketOf(text string) int {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return int((h ^ h>>32) % bucketCount)
}

func find[T item](bucket []T, text string) (int, bool) {
	return slices.BinarySearchFunc(bucket, text, func(t T, want string) int { return cmp.Compare(t.ident(), want) })
}

// get returns the item with that key.
func (s *shelf[T]) get(text string) (found T, ok bool) {
	if s.buckets == nil {
		return found, false
	}
	bucket := s.buckets[bucketOf(text)]
	i, ok := find(bucket, text)
	if ok {
		found = bucket[i]
	}
	return found, ok
}

// put adds t in the place of what has its key.
func (s *shelf[T]) put(t T) {
	if s.buckets == nil {
		s.buckets = make([][]T, bucketCount)
	}
	n := bucketOf(t.ident())
	bucket := s.buckets[n]
	if i, ok := find(bucket, t.ident()); ok {
		bucket[i] = t
	} else {
		s.buckets[n] = slices.Insert(bucket, i, t)
		s.count++
	}
	s.touch(n)
}

// remove takes the item with that key out, if there is one.
func (s *shelf[T]) remove(text string) {
	if s.buckets == nil {
		return
	}
	n := bucketOf(text)
	if i, ok := find(s.buckets[n], text); ok {
		s.buckets[n] = slices.Delete(s.buckets[n], i, i+1)
		s.count--
		s.touch(n)
	}
}

func (s *shelf[T]) touch(bucket int) {
	s.stale[bucket/64] |= 1 << (bucket % 64)
	s.fresh = false
}

// bucket returns the items of a bucket, sorted. They stay the shelf's.
func (s *shelf[T]) bucket(n int) []T {
	if s.buckets == nil {
		return nil
	}
	return s.buckets[n]
}

// all calls fn for every item.
func (s *shelf[T]) all(fn func(T)) {
	for _, bucket := range s.buckets {
		for _, t := range bucket {
			fn(t)
		}
	}
}

// refresh brings the digests up to date. The cost is that of what changed since
// the last call.
func (s *shelf[T]) refresh() {
	if s.fresh {
		return
	}
	if s.digests == nil {
		s.digests = make([]digest, bucketCount)
	}
	for n := range bucketCount {
		if s.stale[n/64]&(1<<(n%64)) != 0 {
			s.digests[n] = digestOf(s.bucket(n))
		}
	}
	clear(s.stale[:])
	hash := sha256.New()
	for i := range s.digests {
		hash.Write(s.digests[i][:])
	}
	s.root = digest(hash.Sum(nil)[:digestSize])
	s.fresh = true
}

func digestOf[T item](bucket []T) digest {
	if len(bucket) == 0 {
		return digest{}
	}
	all := 0
	for _, t := range bucket {
		all += 4 + t.size()
	}
	text := make([]byte, 0, all)
	for _, t := range bucket {
		text = binary.BigEndian.AppendUint32(text, uint32(t.size()))
		text = t.appendTo(text)
	}
	sum := sha256.Sum256(text)
	return digest(sum[:digestSize])
}

// rootDigest stands for all items.
func (s *shelf[T]) rootDigest() digest {
	s.refresh()
	return s.root
}

// filled returns the buckets that are not empty, and their digests.
func (s *shelf[T]) filled() (numbers []uint32, digests []byte) {
	s.refresh()
	for n := range s.digests {
		if s.digests[n] != (digest{}) {
			numbers = append(numbers, uint32(n))
			digests = append(digests, s.digests[n][:]...)
		}
	}
	return numbers, digests
}

// differing returns the buckets whose digests are others than these, which are
// as filled returns them; false when they are malformed.
func (s *shelf[T]) differing(numbers []uint32, digests []byte) ([]uint32, bool) {
	if len(digests) != digestSize*len(numbers) {
		return nil, false
	}
	theirs := make([]digest, bucketCount)
	for i, n := range numbers {
		if n >= bucketCount {
			return nil, false
		}
		theirs[n] = digest(digests[digestSize*i:])
	}
	s.refresh()
	var out []uint32
	for n := range theirs {
		if theirs[n] != s.digests[n] {
			out = append(out, uint32(n))
		}
	}
	return out, true
}
