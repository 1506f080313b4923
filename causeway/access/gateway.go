package access

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/pkg/source"
)

// maxAddresses is how many are worth trying.
const maxAddresses = 8

// Gateway returns host:port by which others outside of the cluster reach the
// gateway, as the API server finds them itself. A Service of type ClusterIP has none.
func (c *Cluster) Gateway(ctx context.Context) ([]string, error) {
	service, err := c.Client.CoreV1().Services(c.Namespace).Get(ctx, APIServer, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.Explain(err)
	}
	outside := source.Outside{Service: service, Nodes: map[string]*corev1.Node{}, Slices: map[string]*discoveryv1.EndpointSlice{}}
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.Explain(err)
	}
	for i := range nodes.Items {
		outside.Nodes[nodes.Items[i].Name] = &nodes.Items[i]
	}
	if outside.NeedsSlices() {
		found, err := c.Client.DiscoveryV1().EndpointSlices(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + APIServer})
		if err != nil {
			return nil, c.Explain(err)
		}
		for i := range found.Items {
			outside.Slices[found.Items[i].Name] = &found.Items[i]
		}
	}
	out, _ := outside.Addresses()
	return out[:min(len(out), maxAddresses)], nil
}
