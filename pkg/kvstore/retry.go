package kvstore

import (
	"time"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

// The last delay is short: a store that stood still and goes on is followed again
// within a second, and an attempt costs little.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Second
)

// newBackoff spaces attempts at a store.
func newBackoff() *retry.Backoff {
	return &retry.Backoff{First: firstDelay, Limit: lastDelay}
}
