package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	grpctls "google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

func TestGatewayServiceFlag(t *testing.T) {
	for args, want := range map[string]string{
		"--gateway-service=a/b":                                   "--gateway-service: only Kubernetes",
		"--gateway-service=b --manifests-dir= --in-cluster":       `--gateway-service: "b" is not namespace/name`,
		"--gateway-service=a/b/c --manifests-dir= --in-cluster":   `--gateway-service: "a/b/c" is not namespace/name`,
		"--gateway-service=mesh/gw --manifests-dir= --in-cluster": "",
	} {
		err := parse(t, strings.Fields(args)...).validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// TestReachOrder: what a flag says comes before the Service, and a Service that gives
// nothing is no reason to say nothing.
func TestReachOrder(t *testing.T) {
	log, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry
	without, sink := newReach(parse(t, "--listen=192.0.2.1:9"), nil, nil, log, registry())
	if got := without.status(nil); sink != nil || got.Service.Service != "" || !slices.Equal(got.Addresses, []string{"192.0.2.1:9"}) {
		t.Errorf("without a Service: %+v", got)
	}
	with, sink := newReach(parse(t, "--listen=192.0.2.1:9", "--gateway-service=mesh/gw"), nil, nil, log, registry())
	if got := with.status(nil); sink == nil || got.Service.Service != "mesh/gw" || got.Service.Note == "" || !slices.Equal(got.Addresses, []string{"192.0.2.1:9"}) {
		t.Errorf("with one that is not known: %+v", got)
	}
}

// checkReach has the gateway found by a Service of a real API server, and by what
// becomes of the Service and its nodes.
func (r *running) checkReach(plane *kubelab.ControlPlane) {
	t := r.t
	t.Helper()
	kubectl := func(input string, args ...string) {
		t.Helper()
		if _, err := plane.Kubectl(t.Context(), input, args...); err != nil {
			t.Fatal(err)
		}
	}
	untilReached := func(note string, want ...string) {
		t.Helper()
		r.until(fmt.Sprintf("reached at %q (%s)", want, note), func(s *adminpb.StatusResponse) bool {
			g := s.GetGateway()
			return g.GetService() == "mesh/gateway" && slices.Equal(g.GetAddresses(), want) && note == "" == (g.GetNote() == "") && strings.Contains(g.GetNote(), note)
		})
	}
	r.until("the Service that is missing", func(s *adminpb.StatusResponse) bool {
		g := s.GetGateway()
		return strings.Contains(g.GetNote(), "no such Service") && len(g.GetAddresses()) == 1 && strings.HasPrefix(g.GetAddresses()[0], "127.0.0.1:")
	})
	status := func(node, ready string) {
		t.Helper()
		kubectl("", "patch", "node", node, "--subresource=status", "--patch", fmt.Sprintf(
			`{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.%s"}], "conditions": [{"type": "Ready", "status": %q}]}}`, node[1:], ready))
	}
	kubectl(`{apiVersion: v1, kind: Namespace, metadata: {name: mesh}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
apiVersion: v1
kind: Service
metadata: {name: gateway, namespace: mesh}
spec: {type: NodePort, ports: [{name: gateway, port: 8474, nodePort: 31474}]}
`, "apply", "-f", "-")
	status("n1", "True")
	status("n2", "True")
	untilReached("", "192.0.2.1:31474", "192.0.2.2:31474")
	if got := r.invite(); !slices.Equal(got, []string{"192.0.2.1:31474", "192.0.2.2:31474"}) {
		t.Errorf("an invitation says %q", got)
	}
	if got := r.invite("gw.example.com:1"); !slices.Equal(got, []string{"gw.example.com:1"}) {
		t.Errorf("an invitation with an address of its own says %q", got)
	}
	status("n1", "Unknown")
	untilReached("", "192.0.2.2:31474")
	kubectl("", "patch", "service", "gateway", "-n", "mesh", "--patch", `{"spec": {"type": "LoadBalancer"}}`)
	untilReached("load balancer yet", "192.0.2.2:31474")
	kubectl("", "patch", "service", "gateway", "-n", "mesh", "--subresource=status", "--patch", `{"status": {"loadBalancer": {"ingress": [{"hostname": "gw.example.com"}]}}}`)
	untilReached("", "gw.example.com:8474")
}

// invite returns the addresses that an invitation has.
func (r *running) invite(addresses ...string) []string {
	r.t.Helper()
	admin, err := pki.ReadAdmin(filepath.Join(r.config.dataDir, "admin.yaml"))
	if err != nil {
		r.t.Fatal(err)
	}
	tls, err := admin.ClientConfig()
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+admin.Endpoint, grpc.WithTransportCredentials(grpctls.NewTLS(tls)))
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	answer, err := joinpb.NewMembershipClient(conn).Invite(r.t.Context(), &joinpb.InviteRequest{Addresses: addresses})
	if err != nil {
		r.t.Fatal(err)
	}
	inv, err := join.ParseInvitation(answer.GetInvitation())
	if err != nil {
		r.t.Fatal(err)
	}
	if !slices.Equal(inv.Addresses, answer.GetAddresses()) {
		r.t.Errorf("%q in it, %q beside it", inv.Addresses, answer.GetAddresses())
	}
	return inv.Addresses
}
