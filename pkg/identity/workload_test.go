package identity_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

func TestFilterLabels(t *testing.T) {
	filter, err := identity.NewFilter(identity.DefaultExcluded())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		in   identity.Workload
		want identity.Labels
	}{{
		name: "a deployment's pod",
		in: identity.Workload{
			Cluster: "east", Namespace: "shop", ServiceAccount: "web",
			Labels:          map[string]string{"app": "web", "pod-template-hash": "5fcc8df587", "tier": "front"},
			NamespaceLabels: map[string]string{"team": "retail"},
		},
		want: "k8s:app=web;k8s:io.cilium.k8s.namespace.labels.team=retail;k8s:io.cilium.k8s.policy.cluster=east;" +
			"k8s:io.cilium.k8s.policy.serviceaccount=web;k8s:io.kubernetes.pod.namespace=shop;k8s:tier=front;",
	}, {
		name: "a job's pod, by prefix",
		in: identity.Workload{
			Cluster: "east", Namespace: "data", ServiceAccount: "default",
			Labels: map[string]string{"batch.kubernetes.io/job-name": "m", "batch.kubernetes.io/controller-uid": "u", "job-name": "m"},
		},
		want: "k8s:io.cilium.k8s.policy.cluster=east;k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=data;",
	}, {
		name: "a pod that claims another namespace and cluster",
		in: identity.Workload{
			Cluster: "east", Namespace: "shop", ServiceAccount: "web",
			Labels: map[string]string{
				"io.kubernetes.pod.namespace":             "kube-system",
				"io.cilium.k8s.policy.cluster":            "west",
				"io.cilium.k8s.namespace.labels.team":     "platform",
				"io.cilium.k8s.policy.serviceaccount":     "admin",
				"io.cilium.k8s.namespace.labels.security": "high",
			},
		},
		want: "k8s:io.cilium.k8s.policy.cluster=east;k8s:io.cilium.k8s.policy.serviceaccount=web;k8s:io.kubernetes.pod.namespace=shop;",
	}} {
		t.Run(tc.name, func(t *testing.T) {
			got := filter.Labels(tc.in)
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if got.Cluster() != tc.in.Cluster {
				t.Errorf("cluster %q, want %q", got.Cluster(), tc.in.Cluster)
			}
		})
	}
}

func TestNewFilterRefuses(t *testing.T) {
	for _, entry := range []string{"", "*", "a*b", "a*b*"} {
		if _, err := identity.NewFilter([]string{entry}); err == nil {
			t.Errorf("entry %q was accepted", entry)
		}
	}
}

func TestCandidatesAreTheWholeRangeOnce(t *testing.T) {
	for _, size := range []cluster.Size{cluster.Size255, cluster.Size511} {
		first, last := identity.Range(3, size)
		seen := make(map[identity.Number]bool)
		for n := range identity.Candidates("k8s:app=web;", 3, size) {
			if n < first || n > last {
				t.Fatalf("size %d: %d is outside %d to %d", size, n, first, last)
			}
			if seen[n] {
				t.Fatalf("size %d: %d came twice", size, n)
			}
			if n.Cluster(size) != 3 || n.Reserved() {
				t.Fatalf("size %d: %d does not belong to cluster 3", size, n)
			}
			seen[n] = true
		}
		if want := int(last-first) + 1; len(seen) != want {
			t.Errorf("size %d: %d candidates, want %d", size, len(seen), want)
		}
	}
}

func TestCandidatesDependOnLabelsAlone(t *testing.T) {
	first := func(l identity.Labels) identity.Number {
		for n := range identity.Candidates(l, 1, cluster.Size255) {
			return n
		}
		return identity.None
	}
	if a, b := first("k8s:app=a;"), first("k8s:app=a;"); a != b {
		t.Errorf("the same labels begin at %d and %d", a, b)
	}
	if a, b := first("k8s:app=a;"), first("k8s:app=b;"); a == b {
		t.Errorf("two label sets both begin at %d", a)
	}
}
