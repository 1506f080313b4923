package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
)

func directory() *merge.Directory {
	host := netip.MustParseAddr("172.18.0.2")
	return &merge.Directory{
		Nodes: map[node.Key]*node.Node{
			{Cluster: "west", Name: "n1"}: {Cluster: "west", Name: "n1", Addresses: []node.Address{{Type: node.InternalIP, IP: host}}},
		},
		Identities: map[identity.Number]*identity.Identity{
			131328: {Number: 131328, Labels: "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=west;k8s:io.kubernetes.pod.namespace=shop;"},
		},
		Addresses: map[netip.Prefix]*endpoint.Owner{
			netip.MustParsePrefix("10.2.0.1/32"): {Cluster: "west", Identity: 131328, HostIP: host, Namespace: "shop", Pod: "web-0"},
			netip.MustParsePrefix("10.3.0.0/24"): {Cluster: "north", Identity: 196864, HostIP: netip.MustParseAddr("172.18.0.9")},
		},
	}
}

func pinned() *datapath.Dump {
	frontend := func(a string) datapath.Frontend {
		return datapath.Frontend{Addr: netip.MustParseAddrPort(a), Protocol: datapath.TCP}
	}
	return &datapath.Dump{
		StraySlots: 2,
		Services: []datapath.DumpedService{
			{Frontend: frontend("10.96.0.1:80"), ID: 3, Generation: 7, Groups: []datapath.DumpedGroup{
				{Weight: 9, Backends: []datapath.DumpedBackend{{ID: 12, Addr: netip.MustParseAddrPort("10.2.0.1:8080")}, {}}},
				{Tier: 1, Backends: []datapath.DumpedBackend{{ID: 13, Addr: netip.MustParseAddrPort("10.9.0.1:8080")}}},
			}},
			{Frontend: frontend("[fd00::1]:80"), ID: 4, Generation: 1, Session: time.Hour, Refuses: true, Damaged: true},
		},
	}
}

func TestWriteDump(t *testing.T) {
	var out bytes.Buffer
	if err := writeDump(&out, newDump(pinned(), directory(), merge.Filter{})); err != nil {
		t.Fatal(err)
	}
	want := `FRONTEND           ID   GENERATION    SESSION   GROUP   TIER   WEIGHT   SLOT   BACKEND   ADDRESS               CLUSTER   POD
10.96.0.1:80/tcp   3    7             -         0       0      9        0      12        10.2.0.1:8080         west      shop/web-0
10.96.0.1:80/tcp   3    7             -         0       0      9        1      0         -                     -         -
10.96.0.1:80/tcp   3    7             -         1       1      0        0      13        10.9.0.1:8080         -         -
[fd00::1]:80/tcp   4    1 (damaged)   3600s     -       -      -        -      -         no backend: refused   -         -

In no service: 2 slots, 0 backends.

ADDRESS       CLUSTER   NODE         POD          IDENTITY   LABELS
10.2.0.1      west      n1           shop/web-0   131328     app=web
10.3.0.0/24   north     172.18.0.9   -            196864     -
172.18.0.2    west      n1           -            6          reserved:remote-node
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The filter is for who is who; what it leaves out is still named at backends.
func TestDumpJSON(t *testing.T) {
	text, err := json.Marshal(newDump(pinned(), directory(), merge.Filter{Cluster: "north"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"frontend":"10.96.0.1:80/tcp","id":3,"generation":7,"damaged":false,"session_seconds":0,"refuses":false`,
		`{"backend":12,"address":"10.2.0.1:8080","who":{"address":"10.2.0.1","cluster":"west"`,
		`"groups":[],`, `"addresses":[{"address":"10.3.0.0/24"`,
	} {
		if !strings.Contains(strings.ReplaceAll(string(text), `"groups":[]}`, `"groups":[],`), want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
}

func TestDumpWithoutMaps(t *testing.T) {
	cmd := newCommand(&bytes.Buffer{})
	cmd.SetArgs([]string{"bpf", "dump", "--bpffs-dir", t.TempDir()})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "no maps are pinned there") {
		t.Errorf("got %v", err)
	}
}

func TestAddressFlags(t *testing.T) {
	t.Setenv("CAUSEWAY_ADMIN_FILE", "")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "--node", "n1"}, "--node narrows what --addresses shows"},
		{[]string{"status", "--addresses", "--wait"}, "none of the others can be"},
		{[]string{"status", "--addresses"}, "no cluster is named"},
		{[]string{"bpf", "dump", "--within", "x"}, `"x" is neither an address nor a prefix`},
		{[]string{"bpf", "dump", "--label", "app"}, `label "app" is not key=value`},
	} {
		cmd := newCommand(&bytes.Buffer{})
		cmd.SetArgs(tc.args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("causeway %s: %v, want one that says %q", strings.Join(tc.args, " "), err, tc.want)
		}
	}
}
