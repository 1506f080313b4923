// Package stall holds up each stage that a change passes, in turn, while changes
// keep coming, and looks at what that costs: memory while it lasts, and the time
// until the maps of every agent are right again when it ends. The daemons are
// real ones in a lab. How a stage is held up:
//
//   - a peer's gateway: its API server stands still (SIGSTOP), which is what a
//     peer sees of a machine that hangs: connections stay, nothing answers;
//   - our own etcd: the file system below it is frozen (FIFREEZE), so that every
//     write and fsync waits, as with a disk that hangs. Only etcd stands still;
//   - the feed: a proxy between an agent and its API server stands still;
//   - an agent: it stands still;
//   - a map: the calls by which an agent writes its maps wait (see gate), while
//     the rest of the agent goes on.
//
// By default a stall takes 5 s; `make test-stall` makes it 30 s.
package stall

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// length is how long each stage is held up.
var length = flag.Duration("stall", 5*time.Second, "how long each stage is held up")

// roleVariable makes this program something else than a test: see proxy and gate.
const roleVariable = "STALL_ROLE"

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "node-agent":
		os.Exit(gate(os.Args[1:]))
	case os.Getenv(roleVariable) == "proxy":
		os.Exit(proxy(os.Args[1], os.Args[2]))
	}
	labtest.Main(m, "clustermesh-apiserver", "node-agent")
}
