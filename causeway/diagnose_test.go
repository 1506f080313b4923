package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
)

func TestWriteDiagnosis(t *testing.T) {
	ms := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
	r := &adminpb.DiagnoseResponse{Nodes: []*adminpb.NodeDiagnosis{
		{
			Node: "n1", Ok: true, Reported: before(3 * time.Second), Mtu: 1450, ItemCount: 9, Items: []*adminpb.Item{{Kind: "device", Name: "mesh0"}},
			Peers: []*adminpb.PeerDiagnosis{
				{Cluster: "north", Ok: true, State: "untried", Mode: "native", Troubles: []*adminpb.Trouble{{Means: "it has no probe pod", Do: "run one"}}},
				{
					Cluster: "south", Ok: true, State: "unreachable", Mode: "native", Spare: true, Paths: 1, Unreachable: 1,
					Troubles: []*adminpb.Trouble{{Means: "nothing arrives", Node: "s1", Paths: 1, Do: "route it"}},
				},
				{Cluster: "west", Ok: true, State: "ok", Mode: "vxlan", Paths: 3, Reachable: 3, RttMin: ms(1), RttMedian: ms(2), RttMax: ms(4), Mtu: 1450, Source: "ok"},
			},
		},
		{
			Node: "n2", Reported: before(time.Second), Mtu: 1450, Problems: []string{"a route is in the way"},
			Peers: []*adminpb.PeerDiagnosis{{
				Cluster: "west", State: "degraded", Mode: "vxlan", Paths: 4, Degraded: 3, Unreachable: 1, RttMin: ms(1), RttMedian: ms(2), RttMax: ms(4), Mtu: 1350, Source: "ok",
				Troubles: []*adminpb.Trouble{
					{Means: "only small packets pass", Detail: "1350 bytes of 1450", Node: "w1", Paths: 3, Do: "raise its MTU"},
					{Means: "nothing comes back", Node: "w2", Paths: 1, Do: "look for firewalls"},
					{Means: "no nodes", Do: "look at the peer"},
				},
			}},
		},
		{Node: "n3", Error: "its agent is not connected"},
	}}
	var out bytes.Buffer
	if err := writeDiagnosis(&out, r, now); err != nil {
		t.Fatal(err)
	}
	want := `NODE   PEER    STATE         REACHED   MODE       ROUND TRIP          MTU            SOURCE   ASKED
n1     north   untried       -         native     -                   -              -        3s ago
n1     south   unreachable   0 of 1    (native)   -                   -              -        3s ago
n1     west    ok            3 of 3    vxlan      1.00/2.00/4.00 ms   1450           ok       3s ago
n2     west    degraded      3 of 4    vxlan      1.00/2.00/4.00 ms   1350 of 1450   ok       1s ago
n3     -       -             -         -          -                   -              -        -

NOT IN USE, OR UNTRIED
  n1 to north, native: it has no probe pod
    run one
  n1 to south, native: nothing arrives, on the way to s1
    route it

WRONG
  n2: a route is in the way
  n2 to west: only small packets pass: 1350 bytes of 1450, on 3 ways, such as that to w1
    raise its MTU
  n2 to west: nothing comes back, on the way to w2
    look for firewalls
  n2 to west: no nodes
    look at the peer
  n3: its agent is not connected

OURS ON   KIND     NAME
n1        device   mesh0
n1                 and 8 more
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWriteDiagnosisEnds(t *testing.T) {
	for want, r := range map[string]*adminpb.DiagnoseResponse{
		"\nNothing is wrong.\n": {Ok: true, Nodes: []*adminpb.NodeDiagnosis{{Node: "n1", Ok: true}}},
		"\nNot everything is known yet: ask again in some seconds.\n": {Nodes: []*adminpb.NodeDiagnosis{{
			Node: "n1", Peers: []*adminpb.PeerDiagnosis{{Cluster: "west", State: "pending", Paths: 1}},
		}}},
	} {
		var out bytes.Buffer
		if err := writeDiagnosis(&out, r, now); err != nil || !strings.HasSuffix(out.String(), want) {
			t.Errorf("%v\n%s\nwant %s", err, out.String(), want)
		}
	}
}
