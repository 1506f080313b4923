package install

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/causeway/release"
)

// forNodes adds to the values of a new release what the cluster's nodes need.
func (i *Installer) forNodes(ctx context.Context, values map[string]any) (map[string]any, error) {
	list, err := i.Cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, i.Cluster.Explain(err)
	}
	values, added := addMount(values, list.Items)
	if added {
		i.say(Note, "its nodes are containers, where systemd mounts no BPF file system: a privileged init container of the agents does (--set nodeAgent.mountBPFFS=false to do it yourself)")
	}
	return values, nil
}

// addMount has a BPF file system mounted on nodes that are containers, as kind names
// them, unless somebody chose.
func addMount(values map[string]any, nodes []corev1.Node) (all map[string]any, added bool) {
	isContainer := func(n corev1.Node) bool { return strings.HasPrefix(n.Spec.ProviderID, "kind://") }
	if release.At(values, "nodeAgent", "mountBPFFS") != nil || !slices.ContainsFunc(nodes, isContainer) {
		return values, false
	}
	return release.Merge(values, release.Put(true, "nodeAgent", "mountBPFFS")), true
}
