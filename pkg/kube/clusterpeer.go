package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Errors of what is read of ClusterPeers and their Secrets.
var (
	// ErrNotServed is for a kind that the API server does not know.
	ErrNotServed = errors.New("the API server does not know this kind")
	// ErrForbidden is for what this client may not do.
	ErrForbidden = errors.New("not allowed")
	// ErrGone is for an object that is not there.
	ErrGone = errors.New("not there")
)

// clusterPeers is where ClusterPeers stand in the API.
const clusterPeers = "/apis/causeway.io/v1alpha1/clusterpeers"

// clusterPeersPages is how many pages of them are read: more than a mesh has clusters.
const clusterPeersPages = 4

// ClusterPeer is another cluster as the resource of that kind says it; its name is
// the cluster's.
type ClusterPeer struct {
	Metadata ClusterPeerMeta   `json:"metadata"`
	Spec     ClusterPeerSpec   `json:"spec"`
	Status   ClusterPeerStatus `json:"status"`
}

// ClusterPeerMeta is what is used of an object's metadata.
type ClusterPeerMeta struct {
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
}

// ClusterPeerSpec is what a peer file says, but that a Secret has the certificates.
type ClusterPeerSpec struct {
	// ID is the number in the mesh that the peer is expected to have, 0 for any.
	ID int64 `json:"id,omitempty"`
	// Endpoints are https://host:port of the peer's gateway; empty where the Secret has
	// them, or the peer joined.
	Endpoints []string `json:"endpoints,omitempty"`
	// SecretRef is the Secret with what the peer is read by; nil for a peer that joined.
	SecretRef *ClusterPeerSecret `json:"secretRef,omitempty"`
	// Claims are what the peer may say it has, nil where its own word is taken.
	Claims *ClusterPeerClaims `json:"claims,omitempty"`
	Import *ClusterPeerImport `json:"import,omitempty"`
}

// ClusterPeerSecret names a Secret in the namespace of Causeway.
type ClusterPeerSecret struct {
	Name string `json:"name"`
}

// ClusterPeerClaims are ranges by what they are for.
type ClusterPeerClaims struct {
	PodCIDRs      []string `json:"podCIDRs,omitempty"`
	MeshCIDR      []string `json:"meshCIDR,omitempty"`
	NodeCIDRs     []string `json:"nodeCIDRs,omitempty"`
	ExternalCIDRs []string `json:"externalCIDRs,omitempty"`
}

// ClusterPeerImport is what is taken from the peer.
type ClusterPeerImport struct {
	Namespaces      []string             `json:"namespaces,omitempty"`
	ServiceSelector *ClusterPeerSelector `json:"serviceSelector,omitempty"`
	Quotas          *ClusterPeerQuotas   `json:"quotas,omitempty"`
}

// ClusterPeerSelector selects Services by their labels.
type ClusterPeerSelector struct {
	MatchLabels      map[string]string        `json:"matchLabels,omitempty"`
	MatchExpressions []ClusterPeerRequirement `json:"matchExpressions,omitempty"`
}

// ClusterPeerRequirement is one that a label has to meet.
type ClusterPeerRequirement struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values,omitempty"`
}

// ClusterPeerQuotas are the most that is taken; 0 is the default.
type ClusterPeerQuotas struct {
	Nodes      int64 `json:"nodes,omitempty"`
	Addresses  int64 `json:"addresses,omitempty"`
	Identities int64 `json:"identities,omitempty"`
	Services   int64 `json:"services,omitempty"`
	Bytes      int64 `json:"bytes,omitempty"`
}

// ClusterPeerStatus is how the peer stands.
type ClusterPeerStatus struct {
	// ObservedGeneration is that of the spec that the status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// ID is the peer's number in the mesh, 0 while it is not known.
	ID int64 `json:"id,omitempty"`
	// State is that of the session with it, as `causeway peers` shows it; "" for none.
	State string `json:"state,omitempty"`
	// Origin is which way the peer is read.
	Origin string `json:"origin,omitempty"`
	// CertificateEnds is RFC 3339, "" when it is not known. CertificateDaysLeft are
	// whole days.
	CertificateEnds     string           `json:"certificateEnds,omitempty"`
	CertificateDaysLeft *int64           `json:"certificateDaysLeft,omitempty"`
	Refused             int64            `json:"refused"`
	RefusedByReason     map[string]int64 `json:"refusedByReason,omitempty"`
	// WaitingRanges is how many ranges the peer names outside of its claims.
	WaitingRanges int64                  `json:"waitingRanges"`
	Conditions    []ClusterPeerCondition `json:"conditions,omitempty"`
}

// ClusterPeerCondition is one of Kubernetes' conditions.
type ClusterPeerCondition struct {
	Type               string `json:"type"`
	Status             string `json:"status"` // True, False or Unknown
	ObservedGeneration int64  `json:"observedGeneration,omitempty"`
	LastTransitionTime string `json:"lastTransitionTime"`
	Reason             string `json:"reason"`
	Message            string `json:"message"`
}

// ClusterPeers returns all that there are now, and the revision to await a change
// from. The error wraps ErrNotServed or ErrForbidden where it is one of these.
func (c *Client) ClusterPeers(ctx context.Context) (peers []ClusterPeer, revision string, err error) {
	if err := c.checkCluster(ctx); err != nil {
		return nil, "", c.sayPeers("list", err)
	}
	revision, err = c.readPages(ctx, clusterPeers, url.Values{}, clusterPeersPages, func(item []byte) error {
		var p ClusterPeer
		if err := json.Unmarshal(item, &p); err != nil {
			return fmt.Errorf("list clusterpeers: %w", err)
		}
		peers = append(peers, p)
		return nil
	})
	if err != nil {
		return nil, "", c.sayPeers("list", err)
	}
	if revision == "" { // those that are left out would be taken for gone
		return nil, "", fmt.Errorf("there are more than %d ClusterPeers, and a mesh has no so many clusters: delete some", len(peers))
	}
	return peers, revision, nil
}

// AwaitClusterPeers returns when one has changed since the revision, when that is
// forgotten, or after limit. What has changed is to be listed: there are few.
func (c *Client) AwaitClusterPeers(ctx context.Context, revision string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit+checkTimeout)
	defer cancel()
	query := url.Values{"watch": {"1"}, "resourceVersion": {revision}, "timeoutSeconds": {strconv.Itoa(int(limit.Seconds()))}}
	request := c.groups[corev1.SchemeGroupVersion].Get().AbsPath(clusterPeers).SetHeader("Accept", "application/json").MaxRetries(0)
	for key := range query {
		request = request.Param(key, query.Get(key))
	}
	stream, err := request.Stream(ctx)
	if err != nil {
		return c.sayPeers("watch", err)
	}
	defer func() { _ = stream.Close() }()
	_, _ = stream.Read(make([]byte, 1)) // a change, or the end
	return nil
}

// PutClusterPeerStatus replaces the status of a ClusterPeer. The error wraps ErrGone
// when it is not there any more.
func (c *Client) PutClusterPeerStatus(ctx context.Context, name string, status *ClusterPeerStatus) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/status", "value": status}})
	if err != nil {
		return err
	}
	err = c.groups[corev1.SchemeGroupVersion].Patch(types.JSONPatchType).AbsPath(clusterPeers, name, "status").
		SetHeader("Accept", "application/json").Body(patch).MaxRetries(0).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("status of ClusterPeer %s: %w", name, ErrGone)
	}
	if err != nil {
		return fmt.Errorf("status of ClusterPeer %s: %w", name, c.sayPeers("patch", err))
	}
	return nil
}

// Secret returns what a Secret holds. The error wraps ErrGone or ErrForbidden where
// it is one of these, and holds nothing of it.
func (c *Client) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	text, err := c.readJSON(ctx, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/secrets/"+url.PathEscape(name), nil)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("Secret %s/%s: %w", namespace, name, ErrGone)
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("Secret %s/%s: %w: %w", namespace, name, ErrForbidden, statusOf(err))
	case err != nil:
		return nil, fmt.Errorf("Secret %s/%s: %w", namespace, name,
			c.describe(err, "get", &Resource{GroupVersion: corev1.SchemeGroupVersion, Plural: "secrets"}))
	}
	var secret struct {
		Data map[string][]byte `json:"data"`
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&secret); err != nil {
		return nil, fmt.Errorf("Secret %s/%s does not parse", namespace, name)
	}
	return secret.Data, nil
}

// sayPeers says what is wrong with ClusterPeers.
func (c *Client) sayPeers(verb string, err error) error {
	resource := &Resource{GroupVersion: schema.GroupVersion{Group: "causeway.io", Version: "v1alpha1"}, Plural: "clusterpeers"}
	described := c.describe(err, verb, resource)
	check := (*checkError)(nil)
	switch {
	case errors.As(err, &check):
		return described
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: clusterpeers.causeway.io", ErrNotServed)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %w", ErrForbidden, described)
	}
	return described
}
