// Package access reaches a Kubernetes cluster with what kubectl has for it, and
// in that cluster the gateway of Causeway's API server: by the Secret in which that
// writes who may come in, and a port that is forwarded to its pod.
package access

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Names in a cluster that others rely on.
const (
	// APIServer is the StatefulSet, the Service and the label of its pods.
	APIServer = "clustermesh-apiserver"
	// NodeAgent is the DaemonSet and the label of its pods.
	NodeAgent = "node-agent"
	// AdminSecret holds the admin file, under AdminKey.
	AdminSecret = "causeway-admin"
	AdminKey    = "admin.yaml"
	// NameLabel and PartLabel stand on all that belongs to Causeway.
	NameLabel = "app.kubernetes.io/name"
	PartLabel = "app.kubernetes.io/part-of"
	// Namespace is where Causeway is unless somebody chose another.
	Namespace = "causeway-system"

	// GatewayPort is that of the gateway's Service, and of its pod.
	GatewayPort = 8474
)

// A command line makes a burst of requests and is gone.
const (
	requestsPerSecond = 50
	requestsAtOnce    = 100
	requestTimeout    = 30 * time.Second
)

// Config says which cluster, as kubectl's flags do.
type Config struct {
	// Kubeconfig is a file; when empty $KUBECONFIG or ~/.kube/config count.
	Kubeconfig string
	// Context is one of the file's; its current one when empty.
	Context string
	// Namespace is where Causeway is, or is to be.
	Namespace string
	// UserAgent is by what audit logs tell clients.
	UserAgent string
}

// Cluster is a Kubernetes cluster. It is safe for concurrent use.
type Cluster struct {
	// Context is the name by which the user knows it.
	Context   string
	Namespace string
	// Rest and Client are connections with the limits of a command line.
	Rest   *rest.Config
	Client kubernetes.Interface
}

// Open reads the credentials; nothing is asked yet.
func Open(cfg Config) (*Cluster, error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules(cfg.Kubeconfig), &clientcmd.ConfigOverrides{CurrentContext: cfg.Context})
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	name := cfg.Context
	if name == "" {
		name = raw.CurrentContext
	}
	names := make([]string, 0, len(raw.Contexts))
	for n := range raw.Contexts {
		names = append(names, n)
	}
	slices.Sort(names)
	from := describeFiles(cfg.Kubeconfig)
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("there is no Kubernetes context in %s: give --kubeconfig FILE, or set KUBECONFIG", from)
	case name == "":
		return nil, fmt.Errorf("%s has no current context: give --context, one of %s", from, strings.Join(names, ", "))
	case !slices.Contains(names, name):
		return nil, fmt.Errorf("there is no context %q in %s, which has %s", name, from, strings.Join(names, ", "))
	}
	base, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", name, err)
	}
	base.QPS, base.Burst, base.Timeout = requestsPerSecond, requestsAtOnce, requestTimeout
	base.UserAgent = cfg.UserAgent
	// Deprecations are news for who builds this, not for who uses it.
	base.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(base)
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", name, err)
	}
	return &Cluster{Context: name, Namespace: cfg.Namespace, Rest: base, Client: client}, nil
}

func rules(kubeconfig string) *clientcmd.ClientConfigLoadingRules {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	rules.WarnIfAllMissing = false
	return rules
}

func describeFiles(kubeconfig string) string {
	if kubeconfig != "" {
		return kubeconfig
	}
	if list := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); list != "" {
		return list
	}
	return clientcmd.RecommendedHomeFile
}

// ErrNotInstalled says that nothing of Causeway was found in a namespace.
var ErrNotInstalled = errors.New("Causeway is not installed there") //nolint:staticcheck // a name

// Admin reads what lets the caller in.
func (c *Cluster) Admin(ctx context.Context) (pki.Admin, error) {
	secret, err := c.Client.CoreV1().Secrets(c.Namespace).Get(ctx, AdminSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return pki.Admin{}, c.whyNoSecret(ctx)
	}
	if err != nil {
		return pki.Admin{}, c.Explain(err)
	}
	text := secret.Data[AdminKey]
	if len(text) == 0 {
		return pki.Admin{}, fmt.Errorf("context %s: the Secret %s/%s has no %s", c.Context, c.Namespace, AdminSecret, AdminKey)
	}
	return pki.ParseAdmin(fmt.Sprintf("%s of the Secret %s/%s of context %s", AdminKey, c.Namespace, AdminSecret, c.Context), text)
}

// whyNoSecret tells a cluster without Causeway from one whose API server has not
// started yet.
func (c *Cluster) whyNoSecret(ctx context.Context) error {
	pods, err := c.pods(ctx)
	if err != nil || len(pods) > 0 {
		return fmt.Errorf("context %s: the API server has not written the Secret %s/%s yet: look at its pod, `kubectl --context %s -n %s logs statefulset/%s`",
			c.Context, c.Namespace, AdminSecret, c.Context, c.Namespace, APIServer)
	}
	return fmt.Errorf("context %s: no Secret %s in namespace %s: %w; `causeway install --context %s` does that, --namespace names another place",
		c.Context, AdminSecret, c.Namespace, ErrNotInstalled, c.Context)
}

func (c *Cluster) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: NameLabel + "=" + APIServer})
	if err != nil {
		return nil, c.Explain(err)
	}
	return list.Items, nil
}

// readyPod returns a pod of the API server that answers.
func (c *Cluster) readyPod(ctx context.Context) (string, error) {
	pods, err := c.pods(ctx)
	if err != nil {
		return "", err
	}
	if len(pods) == 0 {
		return "", fmt.Errorf("context %s: no pod of %s is in namespace %s", c.Context, APIServer, c.Namespace)
	}
	states := make([]string, 0, len(pods))
	running := ""
	for i := range pods {
		pod := &pods[i]
		if Ready(pod) {
			return pod.Name, nil
		}
		// One that is not ready may still say why.
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && started(pod) {
			running = pod.Name
		}
		states = append(states, pod.Name+": "+Why(pod))
	}
	if running != "" {
		return running, nil
	}
	return "", fmt.Errorf("context %s: no pod of the API server runs: %s", c.Context, strings.Join(states, "; "))
}

// Explain puts an answer of Kubernetes into a sentence that says which cluster and
// what to do.
func (c *Cluster) Explain(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("context %s: this user may not do that: %w; ask for that right, or take another context", c.Context, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("context %s: Kubernetes does not know the credentials of this context: %w", c.Context, err)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && !errors.Is(err, context.Canceled):
		return fmt.Errorf("context %s: no answer from Kubernetes at %s: %w", c.Context, c.Rest.Host, err)
	}
	return fmt.Errorf("context %s: %w", c.Context, err)
}
