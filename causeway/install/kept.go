package install

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/release"
)

// With its data a cluster's values stay, too, by which it is the same member when it is
// installed again: its name and id, its range of mesh addresses, and the port of the
// nodes by which its peers know it.
const (
	keptValues = stateSecret + "-values"
	valuesKey  = "values.yaml"
)

// keepValues writes the values of a release that goes.
func (i *Installer) keepValues(ctx context.Context, values map[string]any) error {
	service, err := i.Cluster.Client.CoreV1().Services(i.Cluster.Namespace).Get(ctx, access.APIServer, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return i.Cluster.Explain(err)
	}
	for _, port := range service.Spec.Ports {
		if port.Name == "gateway" && port.NodePort != 0 {
			values = release.Merge(values, release.Put(int(port.NodePort), "gateway", "nodePort"))
		}
	}
	text, err := yaml.Marshal(values)
	if err != nil {
		return fmt.Errorf("%s: keep its values: %w", i.Name, err)
	}
	secrets := i.Cluster.Client.CoreV1().Secrets(i.Cluster.Namespace)
	kept := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: keptValues, Namespace: i.Cluster.Namespace, Labels: map[string]string{access.PartLabel: "causeway"}},
		Data:       map[string][]byte{valuesKey: text},
	}
	if _, err = secrets.Create(ctx, kept, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(ctx, kept, metav1.UpdateOptions{})
	}
	return i.Cluster.Explain(err)
}

// kept returns the values that a release had which went without its data, nil where there
// was none.
func (i *Installer) kept(ctx context.Context) (map[string]any, error) {
	secret, err := i.Cluster.Client.CoreV1().Secrets(i.Cluster.Namespace).Get(ctx, keptValues, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, i.Cluster.Explain(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(secret.Data[valuesKey], &values); err != nil {
		return nil, fmt.Errorf("%s: read the values in the Secret %s/%s, which you may remove: %w", i.Name, i.Cluster.Namespace, keptValues, err)
	}
	return values, nil
}

// dropKept removes what kept returns: the release has it.
func (i *Installer) dropKept(ctx context.Context) error {
	err := i.Cluster.Client.CoreV1().Secrets(i.Cluster.Namespace).Delete(ctx, keptValues, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return i.Cluster.Explain(err)
}

// wanted lays values over those that the release has, or had when it went without its
// data, or over what a new one needs.
func (i *Installer) wanted(ctx context.Context, state *release.State, values map[string]any) (map[string]any, error) {
	if state != nil {
		return release.Merge(state.Values, values), nil
	}
	kept, err := i.kept(ctx)
	if err != nil {
		return nil, err
	}
	return i.forNodes(ctx, release.Merge(kept, values))
}
