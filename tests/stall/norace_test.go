//go:build !race

package stall

import "time"

// soon is how long after its release a stage may take until all maps are right.
const soon = 2 * time.Second
