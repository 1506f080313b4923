package install

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/causeway-mesh/causeway/causeway/release"
)

func TestAddMount(t *testing.T) {
	node := func(provider string) corev1.Node { return corev1.Node{Spec: corev1.NodeSpec{ProviderID: provider}} }
	on, off := release.Put(true, "nodeAgent", "mountBPFFS"), release.Put(false, "nodeAgent", "mountBPFFS")
	for name, test := range map[string]struct {
		nodes       []corev1.Node
		given, want map[string]any
		added       bool
	}{
		"kind":          {[]corev1.Node{node(""), node("kind://docker/east/east-worker")}, nil, on, true},
		"machines":      {[]corev1.Node{node(""), node("aws:///eu-west-1a/i-1"), node("k3s://n1")}, nil, nil, false},
		"somebody's no": {[]corev1.Node{node("kind://docker/east/east-worker")}, off, off, false},
	} {
		got, added := addMount(test.given, test.nodes)
		if diff := cmp.Diff(test.want, got); diff != "" || added != test.added {
			t.Errorf("%s: added %t, want %t; values (-want +got):\n%s", name, added, test.added, diff)
		}
	}
}
