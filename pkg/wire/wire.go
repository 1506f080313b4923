// Package wire is the protocol that clusters exchange their state by: the keys
// in etcd and the encodings of the values. No other package knows either.
//
// Every value is checked the same way in both directions, so what an Encode
// function accepts, the Decode function of that kind gives back deeply equal,
// provided that lists are in the order that the value types ask for. Decoding
// never trusts its input: a value that is too large, does not parse, or does
// not agree with its key is refused with an error that wraps one of the
// sentinels of this package. All functions are pure and safe for concurrent use;
// what they return belongs to the caller.
package wire

import (
	"errors"
	"fmt"
)

// The limits on what another cluster may make us hold, in bytes.
const (
	// MaxValueBytes is the largest value, encoded. etcd takes 1.5 MiB for a
	// whole request; 4 KiB of it are left for the key and the transaction.
	MaxValueBytes = 3<<19 - 4<<10
	// MaxNodeBytes is the largest node: labels, annotations, addresses and ranges take some
	// KiB together, though Kubernetes would let annotations alone have 256.
	MaxNodeBytes = 128 << 10
	// MaxIdentityBytes and MaxAddressBytes are the largest values of those: some
	// hundred labels of the longest kind, and a few names.
	MaxIdentityBytes = 256 << 10
	MaxAddressBytes  = 64 << 10
	// MaxKeyBytes is the longest key. The longest that valid names can make is
	// shorter.
	MaxKeyBytes = 1 << 10
	// MaxSliceBytes is the largest endpoint slice, decompressed.
	MaxSliceBytes = 16 << 20
)

// What decoding and encoding refuse. Every error of this package but those of
// a cluster.Config wraps exactly one of them.
var (
	// ErrMalformed is returned for a key or a value that does not parse, or
	// that holds something the protocol does not allow there.
	ErrMalformed = errors.New("malformed")
	// ErrTooLarge is returned for a key, value or list over its limit.
	ErrTooLarge = errors.New("too large")
	// ErrWrongCluster is returned for a key or a value that names a cluster
	// other than the layout's.
	ErrWrongCluster = errors.New("names another cluster")
	// ErrMismatch is returned for a value that belongs to another key of the
	// same cluster.
	ErrMismatch = errors.New("value belongs to another key")
)

// maxQuoted is how many bytes of another cluster's text an error shows.
const maxQuoted = 256

// clip bounds text of another cluster for an error.
func clip(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	return s[:maxQuoted] + "..."
}

// malformed returns an ErrMalformed that says what is wrong. The text may
// carry input, so it is cut.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, clip(fmt.Sprintf(format, args...)))
}

func tooLarge(what string, n, limit int) error {
	return fmt.Errorf("%s: %w: %d, at most %d", what, ErrTooLarge, n, limit)
}

// checkSize refuses a value before anything is made of it.
func checkSize(value []byte, limit int) error {
	if len(value) > limit {
		return tooLarge("bytes of the value", len(value), limit)
	}
	return nil
}

// decodeError puts the key in front of what is wrong with its value.
func decodeError(key string, err error) error {
	return fmt.Errorf("decode %q: %w", clip(key), err)
}

// encodeError puts what was encoded in front of what is wrong with it.
func encodeError(kind Kind, name string, err error) error {
	return fmt.Errorf("encode %s %q: %w", kind, clip(name), err)
}
