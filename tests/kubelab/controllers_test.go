package kubelab

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

const workload = `apiVersion: v1
kind: Node
metadata: {name: one}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  nodeName: one
  containers: [{name: web, image: "none"}]
  tolerations: [{operator: Exists}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

// TestControllers writes a pod as kubelet would and waits for its endpoint.
func TestControllers(t *testing.T) {
	t.Parallel()
	p := services.Start(t)
	if services.Start(t) != p {
		t.Error("who asks again gets another control plane")
	}
	// A pod needs the account that a controller makes.
	eventually(t, p, "default", "get", "serviceaccounts", "-o", "name")
	if err := p.Apply(t.Context(), workload); err != nil {
		t.Fatal(err)
	}
	const status = `{"status":{"phase":"Running","podIP":"10.200.0.7","podIPs":[{"ip":"10.200.0.7"}],` +
		`"conditions":[{"type":"Ready","status":"True"}]}}`
	if _, err := p.Kubectl(t.Context(), "", "patch", "pod", "web", "--subresource=status", "--type=merge", "-p", status); err != nil {
		t.Fatal(err)
	}
	eventually(t, p, "10.200.0.7", "get", "endpointslices", "-o", "jsonpath={.items[*].endpoints[*].addresses}")
	// The scheduler finds no node that would do, and says so.
	free := strings.NewReplacer("nodeName: one", "nodeSelector: {none: such}", "name: web, namespace", "name: free, namespace").Replace(workload)
	if err := p.Apply(t.Context(), free); err != nil {
		t.Fatal(err)
	}
	eventually(t, p, "Unschedulable", "get", "pod", "free", "-o", "jsonpath={.status.conditions[*].reason}")
}

// eventually runs kubectl until its output holds a text.
func eventually(t *testing.T, p *ControlPlane, want string, args ...string) {
	t.Helper()
	Until(t, "kubectl "+strings.Join(args, " "), func(ctx context.Context) error {
		got, err := p.Kubectl(ctx, "", args...)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("%q, want %q", got, want)
		}
		return err
	})
}
