package install

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/release"
)

const mergePatch = types.StrategicMergePatchType

// What the API server writes at run time, and Helm knows nothing of.
const (
	stateSecret = "causeway-state"
	authorities = "causeway-ca"
	// mirrors have this label, by which slices that we manage are known.
	managedBy = "endpointslice.kubernetes.io/managed-by=causeway.io"
	// definition is the kind of resource by which peers are declared.
	definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/clusterpeers.causeway.io"
)

// removeWritten removes what the API server wrote at run time.
func (i *Installer) removeWritten(ctx context.Context, o UninstallOptions) error {
	core := i.Cluster.Client.CoreV1()
	var gone []string
	secrets, err := core.Secrets(i.Cluster.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return i.Cluster.Explain(err)
	}
	for _, secret := range secrets.Items {
		isState := secret.Name == stateSecret || strings.HasPrefix(secret.Name, stateSecret+"-")
		if secret.Name != access.AdminSecret && (!isState || o.KeepData) {
			continue
		}
		if err := core.Secrets(i.Cluster.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return i.Cluster.Explain(err)
		}
		gone = append(gone, "Secret "+secret.Name)
	}
	switch err := core.ConfigMaps(i.Cluster.Namespace).Delete(ctx, authorities, metav1.DeleteOptions{}); {
	case err == nil:
		gone = append(gone, "ConfigMap "+authorities)
	case !apierrors.IsNotFound(err):
		return i.Cluster.Explain(err)
	}
	if !o.KeepData {
		claims := core.PersistentVolumeClaims(i.Cluster.Namespace)
		list, err := claims.List(ctx, metav1.ListOptions{LabelSelector: access.NameLabel + "=" + access.APIServer})
		if err != nil {
			return i.Cluster.Explain(err)
		}
		for _, claim := range list.Items {
			if err := claims.Delete(ctx, claim.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return i.Cluster.Explain(err)
			}
			gone = append(gone, "PersistentVolumeClaim "+claim.Name)
		}
	}
	mirrors, err := i.removeMirrors(ctx)
	if err != nil {
		return err
	}
	if mirrors > 0 {
		gone = append(gone, fmt.Sprintf("%d mirrored %s", mirrors, plural(mirrors, "EndpointSlice")))
	}
	if len(gone) > 0 {
		i.say(Done, "removed what was written at run time: %s", strings.Join(gone, ", "))
	}
	return nil
}

// removeMirrors removes the slices of other clusters' backends.
func (i *Installer) removeMirrors(ctx context.Context) (int, error) {
	list, err := i.Cluster.Client.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{LabelSelector: managedBy})
	if err != nil {
		return 0, i.Cluster.Explain(err)
	}
	for _, s := range list.Items {
		err := i.Cluster.Client.DiscoveryV1().EndpointSlices(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, i.Cluster.Explain(err)
		}
	}
	return len(list.Items), nil
}

// removeDefinition removes the definition of ClusterPeer, and with it all objects.
func (i *Installer) removeDefinition(ctx context.Context) error {
	err := i.Cluster.Client.CoreV1().RESTClient().Delete().AbsPath(definition).Do(ctx).Error()
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return i.Cluster.Explain(err)
	}
	i.say(Done, "the definition of ClusterPeer and its objects are removed")
	return nil
}

// removeNamespace removes the namespace if it is ours and nothing is to stay in it.
func (i *Installer) removeNamespace(ctx context.Context, o UninstallOptions) error {
	spaces := i.Cluster.Client.CoreV1().Namespaces()
	space, err := spaces.Get(ctx, i.Cluster.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return i.Cluster.Explain(err)
	case space.Annotations[madeBy] == "":
		i.say(Note, "namespace %s stays: somebody else made it", space.Name)
		return nil
	case o.KeepData:
		i.say(Note, "namespace %s stays, with the data", space.Name)
		return nil
	}
	if err := spaces.Delete(ctx, space.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return i.Cluster.Explain(err)
	}
	err = i.until(ctx, i.cfg.Timeout, "end of the namespace", func(ctx context.Context) (bool, string, error) {
		space, err := spaces.Get(ctx, i.Cluster.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		if err != nil {
			return false, "", i.Cluster.Explain(err)
		}
		why := "Kubernetes removes what is in it"
		for _, c := range space.Status.Conditions {
			if c.Status == "True" {
				why = c.Message
			}
		}
		return false, why, nil
	})
	if err == nil {
		i.say(Done, "namespace %s is gone", i.Cluster.Namespace)
	}
	return err
}

// showRemoval says what would go.
func (i *Installer) showRemoval(ctx context.Context, state *release.State, o UninstallOptions) error {
	if state == nil {
		i.say(Note, "there is no release %s in namespace %s; what was written at run time would be looked for", i.cfg.Release, i.Cluster.Namespace)
		return nil
	}
	plan, err := i.releases.Plan(ctx, state.Values)
	if err != nil {
		return err
	}
	i.say(Note, "would stop the agents, take what is theirs out of the kernel of each node, and remove:")
	names, err := release.Objects(plan.Manifest)
	if err != nil {
		return err
	}
	for _, name := range names {
		i.say(Change, "- %s", name)
	}
	i.say(Change, "- Secret %s, ConfigMap %s, mirrored EndpointSlices", access.AdminSecret, authorities)
	if !o.KeepData {
		i.say(Change, "- Secrets %s and the API server's PersistentVolumeClaims", stateSecret)
	}
	if !o.KeepCRDs {
		i.say(Change, "- the definition of ClusterPeer and its objects")
	}
	return nil
}
