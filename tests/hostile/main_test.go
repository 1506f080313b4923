// Package hostile tests that a peer can say only what is its own, whatever it
// says. A program in the hands of the test answers as a peer's gateway, over TLS
// with certificates of an authority of its own; an API server reads it, and an
// agent puts what it passes on in eBPF maps: real processes both.
//
// Each case is a peer of its own, so that all cases run at once; each has a model
// that was told only what is to be believed. After a first listing, after changes
// and after the peer took back all that was wrong, the API server's cache and
// merged state and the agent's maps are what the models say, refusals are counted
// by the reason that is expected, and an honest peer is followed.
package hostile

import (
	"flag"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

var full = flag.Bool("full", false, "floods at their full size: a million keys, 1,000 changes a second for a minute")

func TestMain(m *testing.M) { labtest.Main(m) }
