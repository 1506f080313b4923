package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }

func TestWriteStatus(t *testing.T) {
	r := &adminpb.StatusResponse{
		Cluster: &adminpb.Cluster{
			Name: "east", Id: 1, MaxConnectedClusters: 255, Version: "v1", Started: before(90 * time.Second),
			Counts: &adminpb.Counts{Nodes: 2, Addresses: 7, Identities: 4, Services: 7, EndpointSlices: 4},
		},
		Conditions: []*adminpb.Condition{{Name: "etcd", Ready: true}, {Name: "source", Reason: "not all read"}},
		Source:     &adminpb.Source{Problems: []*adminpb.SourceProblem{{File: "a.yaml", Line: 3, Message: "wrong"}}, RangeNotes: []string{"one differs"}},
		Peers: []*adminpb.Peer{
			{Name: "west", Id: 2, State: "synced", Ready: true, LastChange: before(3 * time.Second), Heartbeat: before(50 * time.Hour), Counts: &adminpb.Counts{Nodes: 2}, Refused: map[string]uint32{"malformed": 2, "too_large": 1}, LastRefused: "k: bad"},
			{Name: "south", State: "connecting", Reason: "connection refused", Counts: &adminpb.Counts{}},
		},
		PeerProblems: []*adminpb.PeerProblem{{File: "North", Message: "name"}, {Message: "no directory"}},
		Agents: []*adminpb.Agent{
			{Node: "n1", Connected: true, Current: true, Ready: true, Since: before(2 * time.Hour), Version: "v1", Services: 1, Frontends: 2, Backends: 3, Addresses: 4},
			{Node: "n2", Connected: true, Since: before(time.Second), Error: "map full"},
			{Node: "n3", Error: "no agent of this node has connected"},
		},
		PublishProblems: []string{"Service shop/web: odd"},
		Gateway:         &adminpb.Gateway{Addresses: []string{"192.0.2.1:8474"}},
	}
	var out bytes.Buffer
	if err := writeStatus(&out, r, now); err != nil {
		t.Fatal(err)
	}
	want := `Cluster east, id 1 of 255, version v1, up 1m30s

  etcd         ready
  source       not ready: not all read
  reached at   192.0.2.1:8474
  own state    2 nodes, 7 addresses, 4 identities, 7 services, 4 endpoint slices of global services

PEER    ID   STATE        LAST CHANGE   HEARTBEAT   NODES   ADDRESSES   IDENTITIES   SERVICES   SLICES   REFUSED
west    2    synced       3s ago        2d2h ago    2       0           0            0          0        3
south   -    connecting   -             -           0       0           0            0          0        0
  west: last refused: k: bad
  south: connection refused

AGENT   STATE     SINCE      SERVICES   FRONTENDS   BACKENDS   ADDRESSES   VERSION
n1      current   2h0m ago   1          2           3          4           v1
n2      behind    1s ago     0          0           0          0           -
n3      away      -          0          0           0          0           -
  n2: map full
  n3: no agent of this node has connected

PROBLEMS
  manifests: a.yaml:3: wrong
  peers: North: name
  peers: no directory
  Service shop/web: odd
  ranges: one differs

Not ready: source; peer south; agent n2; agent n3; 1 problems of the manifests; 2 problems of the peer files.
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWriteStatusOfALoneCluster(t *testing.T) {
	r := &adminpb.StatusResponse{
		Cluster: &adminpb.Cluster{Name: "east", Id: 1, MaxConnectedClusters: 255, Version: "v1", Started: before(0), Counts: &adminpb.Counts{}},
		Source:  &adminpb.Source{Listed: true}, Ready: true,
	}
	var out bytes.Buffer
	if err := writeStatus(&out, r, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"No peers.", "No agents.", "\nReady.\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// TestWriteKubernetes checks that a person sees which API is read, and for how long
// it has not been followed.
func TestWriteKubernetes(t *testing.T) {
	r := &adminpb.StatusResponse{
		Cluster:    &adminpb.Cluster{Name: "east", Id: 1, MaxConnectedClusters: 255, Version: "v1", Started: before(0), Counts: &adminpb.Counts{}},
		Conditions: []*adminpb.Condition{{Name: "source", Ready: true}},
		Source: &adminpb.Source{Kubernetes: "https://10.0.0.1:6443", Listed: true, Problems: []*adminpb.SourceProblem{
			{File: "pods, nodes", Message: "cannot be reached", Since: before(3 * time.Minute)},
		}},
	}
	var out bytes.Buffer
	if err := writeStatus(&out, r, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"source      ready (the Kubernetes API at https://10.0.0.1:6443)\n",
		"Kubernetes API, for 3m0s: pods, nodes: cannot be reached\n",
		"Not ready: 1 problems of the Kubernetes API.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// TestReachedAt checks that a person sees what others are told, and what the Service
// lacks.
func TestReachedAt(t *testing.T) {
	for want, g := range map[string]*adminpb.Gateway{
		"-":                            {},
		"192.0.2.1:1, [2001:db8::1]:1": {Addresses: []string{"192.0.2.1:1", "[2001:db8::1]:1"}},
		"192.0.2.1:1 (Service a/b)":    {Addresses: []string{"192.0.2.1:1"}, Service: "a/b"},
		"192.0.2.1:1 (Service a/b: there is no such Service)": {Addresses: []string{"192.0.2.1:1"}, Service: "a/b", Note: "there is no such Service"},
	} {
		if got := reachedAt(g); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestWriteReaches(t *testing.T) {
	r := &adminpb.StatusResponse{
		Cluster: &adminpb.Cluster{Name: "east", Id: 1, MaxConnectedClusters: 255, Version: "v1", Started: before(0), Counts: &adminpb.Counts{}},
		Source:  &adminpb.Source{Listed: true}, Ready: true,
		Reaches: []*adminpb.Reach{
			{Cluster: "east", Ranges: []string{"10.1.0.0/24"}, RangeCount: 1, MeshNodes: 1, Nodes: 1},
			{
				Cluster: "west", Mode: "vxlan", Ranges: []string{"10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24", "10.2.3.0/24"}, RangeCount: 70, Nodes: 3, Paths: 4, PathsOk: 3, ModeReason: "auto: vxlan, no probe pod in west",
				Refused: []*adminpb.Refusal{{Range: "10.1.0.0/16", Reason: "overlaps 10.1.0.0/24, where this cluster has pods"}}, RefusedCount: 1,
			},
		},
		Agents: []*adminpb.Agent{
			{Node: "n1", Connected: true, Current: true, Since: before(time.Hour), Mesh: &adminpb.AgentMesh{Addresses: []string{"10.200.0.1", "fd00:200::1"}, Problems: []string{"a route is in the way"}, Error: "no device"}},
			{Node: "n2", Since: before(time.Hour)},
		},
	}
	var out bytes.Buffer
	if err := writeStatus(&out, r, now); err != nil {
		t.Fatal(err)
	}
	want := `
PACKETS TO    MODE    RANGES                                            REFUSED   PATHS    NODES WITH A MESH ADDRESS
east (here)   -       10.1.0.0/24                                       0         -        1 of 1
west          vxlan   10.2.0.0/24,10.2.1.0/24,10.2.2.0/24 and 67 more   1         3 of 4   0 of 3
  west: auto: vxlan, no probe pod in west
  west: range 10.1.0.0/16 is not used: it overlaps 10.1.0.0/24, where this cluster has pods

AGENT   STATE     SINCE      SERVICES   FRONTENDS   BACKENDS   ADDRESSES   MESH ADDRESS             VERSION
n1      current   1h0m ago   0          0           0          0           10.200.0.1,fd00:200::1   -
n2      away      1h0m ago   0          0           0          0           -                        -
  n1: packets to other clusters: no device
  n1: a route is in the way
`
	if _, got, _ := strings.Cut(out.String(), "No peers.\n"); !strings.HasPrefix(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestWriteServices(t *testing.T) {
	http := []*adminpb.Port{{Name: "http", Protocol: "TCP", Port: 8080}}
	r := &adminpb.ServicesResponse{Services: []*adminpb.Service{
		{
			Namespace: "shop", Name: "web", Here: true, Global: true, Affinity: "local",
			Frontends: []*adminpb.Frontend{{Ip: "10.97.0.1", Ports: []*adminpb.Port{{Name: "http", Protocol: "TCP", Port: 80}}}, {Ip: "fd00::1"}},
			Clusters: []*adminpb.ServiceCluster{
				{Cluster: "east", Used: true, Backends: []*adminpb.Backend{
					{Ip: "10.1.0.1", Ports: http, Node: "n1", Pod: "web-0", State: "ready"},
					{Ip: "10.1.0.2", Ports: http, State: "not ready"},
				}},
				{Cluster: "west", Reason: "not shared by west"},
			},
		},
		{
			Namespace: "data", Name: "dns", Here: true, Global: true, Affinity: "none", Frontends: []*adminpb.Frontend{{Ip: "10.97.0.2", Ports: []*adminpb.Port{{Protocol: "UDP", Port: 53}}}}, External: []*adminpb.Frontend{{Ip: "192.0.2.1"}}, SessionSeconds: 10800, NodeLocal: true,
			Clusters: []*adminpb.ServiceCluster{{Cluster: "east", Used: true, Terminating: true, Backends: []*adminpb.Backend{{Ip: "10.1.0.3", State: "terminating"}, {Ip: "10.1.0.4", State: "not ready"}}}},
		},
		{Namespace: "data", Name: "sig", Here: true, Global: true, Affinity: "none", Frontends: []*adminpb.Frontend{{Ip: "10.97.0.3", Ports: []*adminpb.Port{{Protocol: "SCTP", Port: 54}}}}},
		{Namespace: "data", Name: "db", Here: true, Global: true, Affinity: "none", Mirror: &adminpb.Mirror{Endpoints: 120, Objects: 2, Wanted: 120}},
		{Namespace: "data", Name: "queue", Here: true, Global: true, Affinity: "none", Mirror: &adminpb.Mirror{Wanted: 3, Reason: "a webhook refuses it"}},
		{Namespace: "data", Name: "home", Here: true},
		{Namespace: "data", Name: "theirs"},
	}}
	var out bytes.Buffer
	if err := writeServices(&out, r); err != nil {
		t.Fatal(err)
	}
	want := `shop/web: at 10.97.0.1 and fd00::1, http 80/TCP, affinity local
  CLUSTER   USED HERE                BACKEND    PORTS           STATE       POD     NODE
  east      yes                      10.1.0.1   http 8080/TCP   ready       web-0   n1
  east      no: not ready            10.1.0.2   http 8080/TCP   not ready   -       -
  west      no: not shared by west   -          -               -           -       -

data/dns: at 10.97.0.2, 53/UDP, affinity none, also at 192.0.2.1, a client keeps its backend for 3h0m0s, each node uses its own backends alone
  CLUSTER   USED HERE       BACKEND    PORTS   STATE         POD   NODE
  east      yes             10.1.0.3   -       terminating   -     -
  east      no: not ready   10.1.0.4   -       not ready     -     -

data/sig: at 10.97.0.3, 54/SCTP, affinity none
  CLUSTER   USED HERE   BACKEND   PORTS   STATE   POD   NODE
  SCTP ports are left to kube-proxy.

data/db: headless, affinity none
  CLUSTER   USED HERE   BACKEND   PORTS   STATE   POD   NODE
  In Kubernetes: 120 remote backends in 2 EndpointSlices.

data/queue: headless, affinity none
  CLUSTER   USED HERE   BACKEND   PORTS   STATE   POD   NODE
  In Kubernetes: 0 remote backends in 0 EndpointSlices, to be 3: a webhook refuses it.

data/home: not global in this cluster, so left to kube-proxy
  CLUSTER   USED HERE   BACKEND   PORTS   STATE   POD   NODE

data/theirs: not in this cluster, so nothing here uses it
  CLUSTER   USED HERE   BACKEND   PORTS   STATE   POD   NODE
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out.Reset()
	if err := writeServices(&out, &adminpb.ServicesResponse{}); err != nil || !strings.Contains(out.String(), "No global services") {
		t.Errorf("nothing to show: %q, %v", out.String(), err)
	}
}

func TestCommandRefuses(t *testing.T) {
	t.Setenv("CAUSEWAY_ADMIN_FILE", "")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"status"}, "no cluster is named"},
		{[]string{"status", "--admin-file", "/nowhere"}, "/nowhere"},
		{[]string{"status", "-o", "xml"}, `give "table" or "json"`},
		{[]string{"services", "web"}, "not NAMESPACE/NAME"},
		{[]string{"services", "a/b/c"}, "not NAMESPACE/NAME"},
		{[]string{"status", "--wait", "--timeout", "1ms", "--admin-file", "/nowhere"}, "no answer within 1ms"},
	} {
		cmd := newCommand(&bytes.Buffer{})
		cmd.SetArgs(tc.args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("causeway %s: %v, want one that says %q", strings.Join(tc.args, " "), err, tc.want)
		}
	}
}

func TestWriter(t *testing.T) {
	for want, w := range map[string]*adminpb.Writer{
		"this replica, a:1, for 3m0s": {Replica: "a:1", Self: true, Since: before(3 * time.Minute)},
		"replica b:1, for 5s":         {Replica: "b:1", Since: before(5 * time.Second)},
		"none at present, for 2s":     {Since: before(2 * time.Second)},
		"not known: no route":         {Replica: "b:1", Since: before(time.Hour), Error: "no route"},
	} {
		if got := writer(w, now); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		var out bytes.Buffer
		r := &adminpb.StatusResponse{Cluster: &adminpb.Cluster{Counts: &adminpb.Counts{}}, Source: &adminpb.Source{}, Writer: w}
		if err := writeStatus(&out, r, now); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("status without %q, error %v:\n%s", want, err, out.String())
		}
	}
}
