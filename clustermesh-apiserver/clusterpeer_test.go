package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

const westManifests = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: w1}
spec: {podCIDRs: [10.2.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.21}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: w1, containers: [{name: web, image: none}]}
status: {phase: Running, hostIP: 192.0.2.21, podIP: 10.2.0.5, podIPs: [{ip: 10.2.0.5}]}
`

// startWest runs the API server of another cluster, from manifests, and returns the
// Secret with which east reads it, and where.
func startWest(t *testing.T) (secret, endpoint string) {
	t.Helper()
	manifests := t.TempDir()
	if err := os.WriteFile(filepath.Join(manifests, "west.yaml"), []byte(westManifests), 0o600); err != nil {
		t.Fatal(err)
	}
	c := parse(t, "--cluster-name=west", "--cluster-id=2", "--data-dir="+t.TempDir(), "--manifests-dir="+manifests, "--listen=127.0.0.1:0", "--listen-http=")
	r := startRun(t, c)
	r.until("its pod", func(s *adminpb.StatusResponse) bool { return s.GetCluster().GetCounts().GetAddresses() > 0 })
	authority, err := pki.OpenAuthority(filepath.Join(c.dataDir, "pki"), "west")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{Role: pki.RolePeer, Name: "east", TTL: 40 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := pki.ReadAdmin(filepath.Join(c.dataDir, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "west", "namespace": "default"},
		"data": {"ca.crt": %q, "tls.crt": %q, "tls.key": %q}}`, text(authority.Bundle()), text(pair.CertPEM), text(pair.KeyPEM)), "https://" + admin.Endpoint
}

// untilPeer waits until the ClusterPeer west is as wanted.
func untilPeer(t *testing.T, plane *kubelab.ControlPlane, what string, wanted func(kube.ClusterPeerStatus, map[string]string) bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := plane.Kubectl(t.Context(), "", "get", "clusterpeer", "west", "-o", "json")
		var p kube.ClusterPeer
		if err == nil {
			err = json.Unmarshal([]byte(text), &p)
		}
		conditions := map[string]string{}
		for _, c := range p.Status.Conditions {
			conditions[c.Type] = c.Status + " " + c.Reason
		}
		if err == nil && p.Status.ObservedGeneration == p.Metadata.Generation && wanted(p.Status, conditions) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: still not so: %+v (%v)", what, p.Status, err)
		}
	}
}

// westOf returns what a status says of west, which may be nothing.
func westOf(s *adminpb.StatusResponse) *adminpb.Peer {
	for _, p := range s.GetPeers() {
		if p.GetName() == "west" {
			return p
		}
	}
	return nil
}

// TestClusterPeer joins a cluster by a resource whose kind comes late, moves what it
// may claim, breaks the resource, starts again without the Kubernetes API, and
// removes it.
func TestClusterPeer(t *testing.T) {
	secret, endpoint := startWest(t)
	plane := kubelab.Start(t, kubelab.Config{})
	c := parse(t, "--data-dir="+t.TempDir(), "--manifests-dir=", "--kubeconfig="+plane.Kubeconfig(), "--listen=127.0.0.1:0", "--listen-http=",
		"--peer-secrets-namespace=default")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	r := startRun(t, c)
	r.until("ready without the kind, which is said", func(s *adminpb.StatusResponse) bool {
		for _, c := range s.GetConditions() {
			if c.GetName() == "clusterpeers" {
				return s.GetReady() && strings.Contains(c.GetReason(), "is not installed")
			}
		}
		return false
	})
	kind, err := os.ReadFile("../deploy/chart/templates/clusterpeer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.Apply(t.Context(), string(kind)+"\n---\n"+secret); err != nil {
		t.Fatal(err)
	}
	declare := func(spec string) {
		t.Helper()
		object := `{"apiVersion": "causeway.io/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": "west"}, "spec": ` + spec + `}`
		deadline := time.Now().Add(patience)
		for { // the kind is served a moment after it is there
			err := plane.Apply(t.Context(), object)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	spec := func(secret, claims string) string {
		return fmt.Sprintf(`{"endpoints": [%q], "secretRef": {"name": %q}, "claims": %s}`, endpoint, secret, claims)
	}

	declare(spec("west", `{"podCIDRs": ["10.9.0.0/16"], "nodeCIDRs": ["192.0.2.0/24"]}`))
	untilPeer(t, plane, "read, and its pod refused", func(s kube.ClusterPeerStatus, is map[string]string) bool {
		return s.ID == 2 && s.State == "synced" && s.Origin == "ClusterPeer" && s.Refused > 0 && s.RefusedByReason["address_range"] > 0 &&
			s.CertificateDaysLeft != nil && *s.CertificateDaysLeft == 39 && s.WaitingRanges == 1 &&
			is["Accepted"] == "True Accepted" && is["Ready"] == "True Synced" && is["ClaimsAgreed"] == "False Waiting" && is["CertificateValid"] == "True Valid"
	})

	declare(spec("west", `{"podCIDRs": ["10.2.0.0/16"], "nodeCIDRs": ["192.0.2.0/24"]}`))
	r.until("the pod is taken", func(s *adminpb.StatusResponse) bool {
		return westOf(s).GetCounts().GetIdentities() > 0 && westOf(s).GetCounts().GetAddresses() > 0
	})
	untilPeer(t, plane, "claims are agreed", func(s kube.ClusterPeerStatus, is map[string]string) bool {
		return s.WaitingRanges == 0 && is["ClaimsAgreed"] == "True Agreed" && is["Ready"] == "True Synced"
	})

	declare(spec("none", `{"podCIDRs": ["10.9.0.0/16"]}`))
	untilPeer(t, plane, "refused, and read as before", func(_ kube.ClusterPeerStatus, is map[string]string) bool {
		return is["Accepted"] == "False SecretMissing" && is["Ready"] == "True Synced" && is["ClaimsAgreed"] == "True Agreed"
	})
	r.stop()

	plane.KillAPIServer()
	r = startRun(t, c)
	r.until("read without the Kubernetes API", func(s *adminpb.StatusResponse) bool {
		return westOf(s).GetState() == "synced" && westOf(s).GetCounts().GetAddresses() > 0
	})
	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Kubectl(t.Context(), "", "delete", "clusterpeer", "west"); err != nil {
		t.Fatal(err)
	}
	r.until("gone", func(s *adminpb.StatusResponse) bool { return westOf(s) == nil && s.GetSource().GetListed() })
}
