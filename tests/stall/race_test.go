//go:build race

package stall

import "time"

// soon only bounds the test here: the race detector is no place to measure.
const soon = 30 * time.Second
