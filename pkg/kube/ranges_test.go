package kube

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/causeway-mesh/causeway/pkg/kube/ranges"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// clusterOfCalico is what kubeadm and Calico leave, and a pod.
const clusterOfCalico = `apiVersion: v1
kind: ConfigMap
metadata: {name: kubeadm-config, namespace: kube-system}
data:
  ClusterConfiguration: |
    networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ippools.crd.projectcalico.org}
spec:
  group: crd.projectcalico.org
  names: {kind: IPPool, listKind: IPPoolList, plural: ippools, singular: ippool}
  scope: Cluster
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec: {serviceAccountName: web, nodeName: node-1, containers: [{name: web, image: none}]}
`

// someRights lets an account read a part of what ranges are found in.
const someRights = `apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [nodes, pods, services], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
`

// TestFindRanges finds the ranges of a control plane: what is not there says
// nothing, what comes later counts, and what may not be read is named.
func TestFindRanges(t *testing.T) {
	t.Parallel()
	plane := kubelab.Start(t, kubelab.Config{})
	client := clientOf(t, plane.Kubeconfig())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	found, err := client.FindRanges(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Pods.Ranges) > 0 || ranges.List(found.Services.Ranges) != kubelab.ServiceCIDR || found.Services.From != "ServiceCIDR kubernetes" || len(found.Unread) > 0 {
		t.Fatalf("an empty cluster has %q", found.Lines())
	}

	apply(t, plane, clusterOfCalico)
	_, err = plane.Kubectl(ctx, "", "patch", "pod", "web", "--subresource=status", "--type=merge", "-p",
		`{"status":{"phase":"Running","podIP":"192.168.3.4","podIPs":[{"ip":"192.168.3.4"}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	// The pool is of a kind that is served a moment after it was made.
	kubelab.UntilSo(t, "the pool", func() bool {
		_, err := plane.Kubectl(ctx, `{"apiVersion":"crd.projectcalico.org/v1","kind":"IPPool","metadata":{"name":"default"},"spec":{"cidr":"192.168.0.0/16"}}`,
			"apply", "-f", "-")
		return err == nil
	})
	if found, err = client.FindRanges(ctx); err != nil {
		t.Fatal(err)
	}
	if ranges.List(found.Pods.Ranges) != "192.168.0.0/16" || found.Pods.From != "IPPool default" || len(found.Pods.Notes) != 2 || len(found.Unread) > 0 {
		t.Errorf("found %q", found.Lines())
	}

	config, err := clientcmd.BuildConfigFromFlags("", plane.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	again, err := FindRanges(ctx, config, "test", "")
	if diff := cmp.Diff(found.Lines(), again.Lines()); diff != "" || err != nil {
		t.Errorf("by other credentials (-client +these): %v\n%s", err, diff)
	}

	apply(t, plane, someRights)
	if found, err = clientOf(t, kubeconfigOf(t, plane, "reader")).FindRanges(ctx); err != nil {
		t.Fatal(err)
	}
	if ranges.List(found.Pods.Ranges) != "10.244.0.0/24" || found.Pods.From != "Node node-1" || !found.Pods.Partial {
		t.Errorf("with some rights found %q", found.Lines())
	}
	for _, unread := range []string{"configmaps/kubeadm-config (it takes the permission to get configmaps)", "servicecidrs (it takes", "ippools (it takes"} {
		if !slices.ContainsFunc(found.Unread, func(s string) bool { return strings.Contains(s, unread) }) {
			t.Errorf("not read are %q, want %q", found.Unread, unread)
		}
	}

	plane.KillAPIServer()
	if _, err = client.FindRanges(ctx); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("with no API server: %v", err)
	}
}

func clientOf(t *testing.T, kubeconfig string) *Client {
	t.Helper()
	c, err := New(Config{
		Kubeconfig: kubeconfig, UIDFile: filepath.Join(t.TempDir(), "uid"), Component: "test", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func apply(t *testing.T, plane *kubelab.ControlPlane, manifest string) {
	t.Helper()
	if err := plane.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

// kubeconfigOf returns a kubeconfig of a service account in the namespace default.
func kubeconfigOf(t *testing.T, plane *kubelab.ControlPlane, account string) string {
	t.Helper()
	token, err := plane.Kubectl(t.Context(), "", "create", "token", account)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text, err := os.ReadFile(plane.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"set-credentials", account, "--token=" + strings.TrimSpace(token)},
		{"set-context", "--current", "--user=" + account},
	} {
		if _, err := plane.Kubectl(t.Context(), "", append([]string{"config", "--kubeconfig=" + file}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	return file
}
