package install

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/causeway/access"
)

// madeBy is on a namespace that we made, and may take away.
const (
	madeBy  = "causeway.io/made-by"
	enforce = "pod-security.kubernetes.io/enforce"
)

// ensureNamespace makes the namespace where it is missing. Agents use the node's
// network and folders, which only the level "privileged" lets pods do.
func (i *Installer) ensureNamespace(ctx context.Context) error {
	name := i.Cluster.Namespace
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name,
		Labels: map[string]string{
			enforce: "privileged", "pod-security.kubernetes.io/audit": "privileged", "pod-security.kubernetes.io/warn": "privileged",
			access.PartLabel: "causeway",
		},
		Annotations: map[string]string{madeBy: "causeway install"},
	}}
	// Who may make none may still install where it is.
	there, err := i.Cluster.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if _, err = i.Cluster.Client.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{}); err == nil {
			i.say(Done, "namespace %s is made", name)
			return nil
		}
	}
	if err != nil {
		return i.Cluster.Explain(err)
	}
	if there.DeletionTimestamp != nil {
		return fmt.Errorf("%s: namespace %s is being removed: wait until it is gone", i.Name, name)
	}
	if level := there.Labels[enforce]; level != "" && level != "privileged" {
		return fmt.Errorf("%s: namespace %s lets no pods use the node's network: set its label %s=privileged (it is %s)", i.Name, name, enforce, level)
	}
	return nil
}
