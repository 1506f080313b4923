// Package faults tests what happens when parts of a mesh fail, under load: clients
// of a service of all clusters make 200 new connections a second and hold 50 long
// ones, in a closed loop. No request may fail, and nobody may wait for longer than
// a second, and what a client of one pod without any service waits beside it,
// which is what the machine costs. Daemons, etcd, disks, clocks and packets are
// real ones in a lab; afterwards the mesh is whole again, by itself.
//
// All that may happen, by the design's table, and the test of it:
//
//	agent killed, restarted, upgraded      TestMesh; pkg/datapath restart_test.go
//	API server killed                      TestMesh for 5 s, `make test-faults` for 60 s: no key of the state
//	                                       has a lease, no map is written when nothing differs;
//	                                       tests/scenarios TestResume: what 200 agents are sent
//	own etcd lost with its disk            TestMesh; tests/scenarios wipe-own, wipe;
//	                                       pkg/publish TestAllocationsOutliveEtcd
//	a peer's API server away               TestMesh; tests/scenarios paused (it hangs instead)
//	a peer cluster dead                    not built: liveness of remote clusters
//	a partition of control planes          TestMesh; tests/scenarios partition
//	a peer publishes garbage               TestMesh; pkg/wire refuse_test.go and fuzz_test.go;
//	                                       tests/hostile, what is well formed and not the peer's
//	a peer removed                         TestMesh; pkg/merge TestAgainstModel
//	external etcd: the writer dies         tests/scenarios TestReplicas
//	clock jumps                            TestClock, ahead and back by hours and by weeks
//	compaction                             pkg/kvstore/kvtest TestStores/*/compaction
//	slow disk                              tests/stall TestStall/own_etcd, which hangs
//	full disk                              TestFullDisk: etcd's, and the agent's; pkg/feed TestFullDisk
//	etcd out of quota                      TestQuota; for an external etcd pkg/kvstore/kvtest TestFull
//	torn state file                        pkg/feed TestFilesThatCannotBeUsed, TestTornByTheEndOfTheMachine
//	an old state file                      pkg/agent TestRestoredState
//	two agents with one certificate        pkg/feed TestSharedCertificate
//
// What depends on the wall clock besides certificates is tested with a clock of
// the test's own: the rest of freed identities in pkg/publish
// (TestAllocatorRestsFreedNumbers), which a clock that jumps ahead by more than a
// day ends early. Leases and time-outs go by the monotonic clock, which does not
// jump.
package faults

import (
	"flag"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

var away = flag.Duration("away", 5*time.Second, "how long an API server is away")

func TestMain(m *testing.M) { labtest.Main(m) }
