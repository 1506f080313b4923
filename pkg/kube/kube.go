// Package kube follows objects in a cluster's Kubernetes API. It is the only
// place that knows client-go: credentials, lists, watches and their failures.
//
// What is given to a Store is always whole: a listing takes effect when its last
// object has arrived, and a broken watch, an API server that is away, refuses or
// throttles changes nothing. Each listing is of the state at that moment, never of
// an older one that a replica of the API server still has, and only of the cluster
// whose objects were followed before.
package kube

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// A client makes three requests for each stream that it opens, and then none
	// for minutes: more than this is a fault of ours, held back before it costs the
	// API server anything.
	requestsPerSecond = 20
	requestsAtOnce    = 40
)

// Config says which API server to follow, and as whom.
type Config struct {
	// Kubeconfig is a file as kubectl reads it; its current context counts. Empty:
	// the service account of the pod that this process runs in.
	Kubeconfig string
	// UIDFile keeps the uid of the namespace kube-system, which is the cluster's
	// own: another cluster is not followed in its place. Written when it is
	// missing.
	UIDFile string
	// Component and Version are the user agent, by which an API server's audit log
	// and metrics tell clients.
	Component string
	Version   string
	Logger    *slog.Logger
}

// Client is a connection to one cluster's API server. It is safe for concurrent use.
type Client struct {
	server   string
	who      string // whose credentials are used, for messages
	identity *identity
	// groups are the clients of the API groups, each with its own path.
	groups map[schema.GroupVersion]*rest.RESTClient
	params kruntime.ParameterCodec
	// base and transport are what further clients of groups are made of.
	base      *rest.Config
	transport *http.Client
}

// New returns a client that has asked nothing yet; an error says that the
// credentials cannot be read or do not make sense.
func New(cfg Config) (*Client, error) {
	base, who, err := credentials(cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return newClient(cfg, base, who)
}

// newClient makes base its own.
func newClient(cfg Config, base *rest.Config, who string) (*Client, error) {
	base.UserAgent = fmt.Sprintf("%s/%s (%s/%s)", cfg.Component, cmp.Or(cfg.Version, "unknown"), runtime.GOOS, runtime.GOARCH)
	base.QPS, base.Burst = requestsPerSecond, requestsAtOnce
	// Deprecations of what is asked for would be news for who builds this.
	base.WarningHandler = rest.NoWarnings{}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	base.ContentType = kruntime.ContentTypeProtobuf
	base.AcceptContentTypes = kruntime.ContentTypeProtobuf + "," + kruntime.ContentTypeJSON
	base.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// All groups share connections; each has the limit for itself.
	transport, err := rest.HTTPClientFor(base)
	if err != nil {
		return nil, fmt.Errorf("credentials of %s: %w", who, err)
	}
	c := &Client{
		server: base.Host, who: who, identity: &identity{file: cfg.UIDFile, log: cfg.Logger},
		groups: make(map[schema.GroupVersion]*rest.RESTClient), params: kruntime.NewParameterCodec(scheme),
		base: base, transport: transport,
	}
	for _, gv := range []schema.GroupVersion{corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion} {
		if c.groups[gv], err = groupClient(base, gv, transport); err != nil {
			return nil, fmt.Errorf("client for %s: %w", base.Host, err)
		}
	}
	return c, nil
}

// Server returns the API server's address.
func (c *Client) Server() string { return c.server }

// Close ends connections that no request uses. The client can be used afterwards.
func (c *Client) Close() {
	for _, group := range c.groups { // they share one transport
		utilnet.CloseIdleConnectionsFor(group.Client.Transport)
		return
	}
}

func credentials(kubeconfig string) (cfg *rest.Config, who string, err error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, "", errors.New("no pod's service account is here: this process does not run in a pod, or automountServiceAccountToken is false")
		}
		if err != nil {
			return nil, "", fmt.Errorf("read the pod's service account: %w", err)
		}
		return cfg, "the pod's service account", nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	cfg, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("read %q: %w", kubeconfig, err)
	}
	return cfg, kubeconfig, nil
}

func newScheme() (*kruntime.Scheme, error) {
	scheme := kruntime.NewScheme()
	// Errors, bookmarks and options of every group are those of "v1".
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return scheme, errors.Join(corev1.AddToScheme(scheme), discoveryv1.AddToScheme(scheme), authenticationv1.AddToScheme(scheme), eventsv1.AddToScheme(scheme))
}

func groupClient(base *rest.Config, gv schema.GroupVersion, transport *http.Client) (*rest.RESTClient, error) {
	cfg := rest.CopyConfig(base)
	cfg.GroupVersion = &gv
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	return rest.RESTClientForConfigAndClient(cfg, transport)
}
