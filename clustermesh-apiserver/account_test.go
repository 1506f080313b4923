package main

import (
	"testing"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// TestAgentServiceAccount takes an agent's pod from the token that Kubernetes gives to
// it to a certificate, by the API server's flag alone. Who is refused is tested in
// pkg/token.
func TestAgentServiceAccount(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	err := plane.Apply(t.Context(), `apiVersion: v1
kind: Namespace
metadata: {name: causeway}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: node-agent, namespace: causeway}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-1, namespace: causeway}
spec: {serviceAccountName: node-agent, nodeName: node-1, containers: [{name: agent, image: none}]}
`)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, "--data-dir="+t.TempDir(), "--manifests-dir=", "--kubeconfig="+plane.Kubeconfig(), "--listen=127.0.0.1:0", "--listen-http=",
		"--agent-service-account=causeway/node-agent")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	r := startRun(t, c)
	r.until("an answer", func(*adminpb.StatusResponse) bool { return true })
	files := enrol(t, plane, "causeway", c.dataDir)
	if err := files.CheckSubject(pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: "node-1"}); err != nil {
		t.Error(err)
	}
}
