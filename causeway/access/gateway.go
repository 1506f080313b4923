package access

import (
	"context"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxAddresses is how many are worth trying.
const maxAddresses = 8

// Gateway returns host:port by which others outside of the cluster reach the
// gateway: those of the Service's load balancer, else its port on nodes that are
// ready. A Service of type ClusterIP has none.
func (c *Cluster) Gateway(ctx context.Context) ([]string, error) {
	service, err := c.Client.CoreV1().Services(c.Namespace).Get(ctx, APIServer, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.Explain(err)
	}
	var out []string
	for _, in := range service.Status.LoadBalancer.Ingress {
		for _, host := range []string{in.IP, in.Hostname} {
			if host != "" {
				out = append(out, net.JoinHostPort(host, strconv.Itoa(GatewayPort)))
			}
		}
	}
	for _, port := range service.Spec.Ports {
		if len(out) > 0 || port.Name != "gateway" || port.NodePort == 0 {
			continue
		}
		hosts, err := c.readyNodes(ctx)
		if err != nil {
			return nil, err
		}
		for _, host := range hosts {
			out = append(out, net.JoinHostPort(host, strconv.Itoa(int(port.NodePort))))
		}
	}
	return out[:min(len(out), maxAddresses)], nil
}

// readyNodes returns the addresses of nodes that are ready: those for the world where
// there are any, else those inside.
func (c *Cluster) readyNodes(ctx context.Context) ([]string, error) {
	list, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, c.Explain(err)
	}
	found := map[corev1.NodeAddressType][]string{}
	for _, node := range list.Items {
		ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		for _, a := range node.Status.Addresses {
			if ready {
				found[a.Type] = append(found[a.Type], a.Address)
			}
		}
	}
	if outside := found[corev1.NodeExternalIP]; len(outside) > 0 {
		return outside, nil
	}
	return found[corev1.NodeInternalIP], nil
}
