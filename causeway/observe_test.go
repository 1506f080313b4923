package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// said is one of each of what an API server says.
func said() []*adminpb.ObserveResponse {
	drop := func(d *adminpb.Drop) *adminpb.ObserveResponse {
		d.Time = timestamppb.New(now)
		return &adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Drop{Drop: d}}
	}
	lost := func(node string, n uint64) *adminpb.ObserveResponse {
		return &adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Lost{Lost: &adminpb.Lost{Node: node, Events: n}}}
	}
	change := func(node, state string) *adminpb.ObserveResponse {
		return &adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Change{Change: &adminpb.NodeChange{Node: node, State: state}}}
	}
	web := &adminpb.Party{Address: "10.2.0.1", Port: 4711, Cluster: "west", Node: "w1", Namespace: "shop", Pod: "web-0"}
	return []*adminpb.ObserveResponse{
		{Item: &adminpb.ObserveResponse_Observed{Observed: &adminpb.Observed{Nodes: []string{"n1"}, Others: []string{"n2", "n3"}}}},
		drop(&adminpb.Drop{
			Node: "n1", Direction: "from_mesh", Reason: "identity", Protocol: 6, Length: 74,
			Source: web, Destination: &adminpb.Party{Address: "fd00::1", Port: 80, Cluster: "east", Node: "n1", Namespace: "shop", Pod: "db-0"},
			Tunnel: "192.0.2.1", TunnelNode: "w1", ClusterId: 2, Cluster: "west",
			Identity: 131328, IdentityLabels: []string{"k8s:app=web", "k8s:io.cilium.k8s.policy.cluster=west"}, KnownIdentity: 131329,
		}),
		drop(&adminpb.Drop{
			Node: "n1", Direction: "to_mesh", Reason: "destination", Protocol: 1, Length: 98,
			Source: &adminpb.Party{Address: "192.0.1.1", Cluster: "east", Node: "n1"}, Destination: &adminpb.Party{Address: "10.2.0.9"},
			Identity: 6, IdentityLabels: []string{"reserved:remote-node="}, KnownIdentity: 6,
		}),
		drop(&adminpb.Drop{Node: "n1", Direction: "from_mesh", Reason: "node", Tunnel: "198.51.100.7", Length: 14}),
		drop(&adminpb.Drop{Node: "n1", Direction: "to_mesh", Reason: "fresh", Protocol: 253, Tunnel: "192.0.2.1", Cluster: "west"}),
		lost("n1", 12), lost("", 1),
		change("n1", "away"), change("n1", "back"), change("n2", "silent"), change("n2", "odd"),
	}
}

const wantNotes = `causeway: not seen: n2, n3, whose agents carry no packets between clusters or are not connected to this API server
causeway: n1: the agent has gone; what is dropped there is not seen until it is back
causeway: n1: the agent is there; what is dropped there is seen from now on
causeway: n2: the agent did not say in time what it remembers
causeway: n2: odd
`

func TestShowDrops(t *testing.T) {
	const text = `Nov 22 12:00:00.000 n1 from_mesh dropped, the source is known with another identity (identity): TCP west/shop/web-0 10.2.0.1:4711 -> east/shop/db-0 [fd00::1]:80, 74 bytes, says identity 131328 (app=web), known as 131329, tunnel from west/w1 192.0.2.1
Nov 22 12:00:00.000 n1 to_mesh dropped, the destination is not known (destination): ICMP node east/n1 192.0.1.1 -> 10.2.0.9, 98 bytes, identity 6 (reserved:remote-node)
Nov 22 12:00:00.000 n1 from_mesh dropped, the sender is no node of a peer (node): 14 bytes, tunnel from 198.51.100.7
Nov 22 12:00:00.000 n1 to_mesh dropped, for a reason that this version does not know (fresh): 253 0 bytes, tunnel to west 192.0.2.1
... 12 events were lost: n1 had more than it may send; causeway_packet_packets_total counts all
... 1 event was lost: they came faster than they were read here
`
	const lines = `{"time":"2026-11-22T12:00:00Z","node":"n1","direction":"from_mesh","reason":"identity","reason_words":"the source is known with another identity","source":{"address":"10.2.0.1","port":4711,"cluster":"west","node":"w1","namespace":"shop","pod":"web-0"},"destination":{"address":"fd00::1","port":80,"cluster":"east","node":"n1","namespace":"shop","pod":"db-0"},"protocol":"TCP","tunnel":"192.0.2.1","tunnel_node":"w1","cluster":"west","cluster_id":2,"identity":131328,"identity_labels":["k8s:app=web","k8s:io.cilium.k8s.policy.cluster=west"],"known_identity":131329,"known_labels":[],"length":74}
{"time":"2026-11-22T12:00:00Z","node":"n1","direction":"to_mesh","reason":"destination","reason_words":"the destination is not known","source":{"address":"192.0.1.1","port":0,"cluster":"east","node":"n1","namespace":"","pod":""},"destination":{"address":"10.2.0.9","port":0,"cluster":"","node":"","namespace":"","pod":""},"protocol":"ICMP","tunnel":"","tunnel_node":"","cluster":"","cluster_id":0,"identity":6,"identity_labels":["reserved:remote-node="],"known_identity":6,"known_labels":[],"length":98}
{"time":"2026-11-22T12:00:00Z","node":"n1","direction":"from_mesh","reason":"node","reason_words":"the sender is no node of a peer","source":null,"destination":null,"protocol":"","tunnel":"198.51.100.7","tunnel_node":"","cluster":"","cluster_id":0,"identity":0,"identity_labels":[],"known_identity":0,"known_labels":[],"length":14}
{"time":"2026-11-22T12:00:00Z","node":"n1","direction":"to_mesh","reason":"fresh","reason_words":"for a reason that this version does not know","source":null,"destination":null,"protocol":"253","tunnel":"192.0.2.1","tunnel_node":"","cluster":"west","cluster_id":0,"identity":0,"identity_labels":[],"known_identity":0,"known_labels":[],"length":0}
{"lost_events":12,"node":"n1"}
{"lost_events":1,"node":""}
`
	for form, want := range map[string]string{"table": text, "json": lines} {
		var out, notes bytes.Buffer
		d := &drops{out: &out, notes: &notes, json: form == "json", follow: true, zone: time.UTC}
		for _, m := range said() {
			if err := d.item(m, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.end(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", form, diff)
		}
		if diff := cmp.Diff(wantNotes, notes.String()); diff != "" {
			t.Errorf("%s: notes (-want +got):\n%s", form, diff)
		}
	}
}

func TestShowReasons(t *testing.T) {
	var table, list bytes.Buffer
	if err := errors.Join(showReasons(&table, "table"), showReasons(&list, "json")); err != nil {
		t.Fatal(err)
	}
	const want = "routed        The packet carries a source route that would lead it on from here.\n" +
		"              Find the program at the source that asks for it: no ordinary application does.\n"
	if !strings.Contains(table.String(), want) {
		t.Errorf("%q is not in\n%s", want, table.String())
	}
	var reasons []reason
	if err := json.Unmarshal(list.Bytes(), &reasons); err != nil {
		t.Fatal(err)
	}
	silent := 0
	for _, r := range reasons {
		if !r.Events {
			silent++
		}
	}
	if len(reasons) < 10 || silent != 2 {
		t.Errorf("%d reasons, %d of them without events", len(reasons), silent)
	}
}

// apiServer says the same to everybody who observes.
type apiServer struct {
	adminpb.UnimplementedAdminServer
	says  []*adminpb.ObserveResponse
	asked chan *adminpb.ObserveRequest
	err   error
}

func (s *apiServer) Observe(r *adminpb.ObserveRequest, stream grpc.ServerStreamingServer[adminpb.ObserveResponse]) error {
	for _, m := range s.says {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	s.asked <- r
	if s.err == nil && r.Follow {
		<-stream.Context().Done()
	}
	return s.err
}

// serve returns the admin file of an API server that lasts as long as the test.
func (s *apiServer) serve(t *testing.T) string {
	t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(t.TempDir(), "pki"), "east")
	if err != nil {
		t.Fatal(err)
	}
	tls, err := authority.ServerConfig(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{Role: pki.RoleAdmin, Name: "admin", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "admin.yaml")
	if err := pki.WriteAdmin(path, pki.Admin{
		Endpoint: listener.Addr().String(), ClusterName: "east",
		CA: string(authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM),
	}); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(tls)))
	adminpb.RegisterAdminServer(server, s)
	s.asked = make(chan *adminpb.ObserveRequest, 8)
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		group.Wait()
	})
	return path
}

func observed(nodes, others []string) []*adminpb.ObserveResponse {
	return []*adminpb.ObserveResponse{{Item: &adminpb.ObserveResponse_Observed{Observed: &adminpb.Observed{Nodes: nodes, Others: others}}}}
}

func TestObserveCommand(t *testing.T) {
	for name, test := range map[string]struct {
		args       []string
		says       []*adminpb.ObserveResponse
		err        error
		want, note string
	}{
		"no agent":   {nil, observed(nil, []string{"n1"}), nil, "no agent carries packets between clusters, so there is nothing to see: is --mesh-cidr set", ""},
		"no node":    {[]string{"--node", "n9"}, observed(nil, nil), nil, `the cluster has no node "n9"`, ""},
		"other node": {[]string{"--node", "n1"}, observed(nil, []string{"n1"}), nil, "the agent of node n1 carries no packets", ""},
		"nothing":    {nil, observed([]string{"n1"}, nil), nil, "", "agents remember no such packet"},
		"many nodes": {nil, observed([]string{"n1"}, strings.Split("abcdefgh", "")), nil, "", "not seen: a, b, c, d, e, 3 more, whose"},
		"refused":    {nil, nil, status.Error(codes.PermissionDenied, "not you"), "ask the API server: not you", ""},
		"follow":     {[]string{"-f"}, nil, status.Error(codes.Unavailable, "gone"), "ask the API server: gone", ""},
		"direction":  {[]string{"--direction", "up"}, nil, nil, `direction "up": give to_mesh`, ""},
		"selector":   {[]string{"--to", "web"}, nil, nil, `"web" is no address`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := &apiServer{says: test.says, err: test.err}
			var out, notes bytes.Buffer
			cmd := newCommand(&out)
			cmd.SetErr(&notes)
			cmd.SetArgs(append([]string{"observe", "--admin-file", server.serve(t)}, test.args...))
			err := cmd.ExecuteContext(t.Context())
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
			if !strings.Contains(notes.String(), test.note) {
				t.Errorf("notes %q, want %q", notes.String(), test.note)
			}
		})
	}
}

// TestObserveAgent asks an agent at its socket.
func TestObserveAgent(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, test := range map[string]struct {
		args      []string
		says      []*adminpb.ObserveResponse
		want, out string
	}{
		"a drop":       {nil, append(observed([]string{"n1"}, nil), said()[1]), "", "n1 from_mesh dropped"},
		"no mesh":      {nil, observed(nil, []string{"n1"}), "the agent carries no packets between clusters", ""},
		"another node": {[]string{"--node", "n9"}, observed(nil, nil), "this is not the agent of node n9", ""},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			agent := &apiServer{says: test.says, asked: make(chan *adminpb.ObserveRequest, 8)}
			server := grpc.NewServer()
			adminpb.RegisterAdminServer(server, agent)
			var group sync.WaitGroup
			group.Go(func() { _ = server.Serve(listener) })
			defer group.Wait()
			defer server.Stop()
			var out bytes.Buffer
			cmd := newCommand(&out)
			cmd.SetErr(&bytes.Buffer{})
			cmd.SetArgs(append([]string{"observe", "--agent-socket", socket}, test.args...))
			err = cmd.ExecuteContext(t.Context())
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
			if !strings.Contains(out.String(), test.out) {
				t.Errorf("%q does not say %q", out.String(), test.out)
			}
		})
	}
	cmd := newCommand(&bytes.Buffer{})
	cmd.SetErr(&bytes.Buffer{})
	cmd.SetArgs([]string{"observe", "--agent-socket", filepath.Join(dir, "nobody")})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "ask the agent") {
		t.Errorf("without an agent: %v", err)
	}
}

// Ctrl-C is a good end.
func TestObserveUntilCtrlC(t *testing.T) {
	server := &apiServer{says: said()[:2]}
	path := server.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, notes bytes.Buffer
	cmd := newCommand(&out)
	cmd.SetErr(&notes)
	cmd.SetArgs([]string{"observe", "--admin-file", path, "-f", "-o", "json", "--reason", "identity,node", "--from", "shop/web-0"})
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	r := <-server.asked
	if !r.Follow || r.Last != 0 || r.From != "shop/web-0" || !cmp.Equal(r.Reasons, []string{"identity", "node"}) {
		t.Errorf("asked for %v", r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}

	for args, last := range map[string]uint32{"observe": lastShown, "observe -f --last 3": 3, "observe --last 7": 7} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := newCommand(&bytes.Buffer{})
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetArgs(append(strings.Fields(args), "--admin-file", path))
		go func() { done <- cmd.ExecuteContext(ctx) }()
		if r := <-server.asked; r.Last != last {
			t.Errorf("%s asks for %d", args, r.Last)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}
