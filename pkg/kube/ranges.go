package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/causeway-mesh/causeway/pkg/kube/ranges"
)

// What is read of a cluster to find its ranges: so many pages of nodes. Of pods and
// Services the first page says enough of where they are.
const rangesPages = 20

// listPage is how many objects are in a page.
const listPage = 500

// place is where objects stand that say ranges.
type place struct {
	kind string
	// paths are where it may stand, of which the first counts that is there.
	paths    []string
	selector string // of labels
	pages    int    // of a list; 0 for an object
	rule     string // that lets it be read
}

// places are all of them. What they need is in the ClusterRole, and no more.
func places() []place {
	configMap := func(paths ...string) place {
		for i, p := range paths {
			namespace, name, _ := strings.Cut(p, "/")
			paths[i] = "/api/v1/namespaces/" + namespace + "/configmaps/" + name
		}
		return place{kind: ranges.KindConfigMap, paths: paths, rule: "get configmaps"}
	}
	return []place{
		configMap("kube-system/kubeadm-config"),
		configMap("kube-system/kube-proxy"),
		configMap("kube-system/cilium-config", "cilium/cilium-config"),
		configMap("kube-flannel/kube-flannel-cfg", "kube-system/kube-flannel-cfg", "kube-system/canal-config"),
		{kind: ranges.KindServiceCIDR, paths: []string{"/apis/networking.k8s.io/v1/servicecidrs"}, pages: 1, rule: "list servicecidrs.networking.k8s.io"},
		{kind: ranges.KindIPPool, paths: []string{"/apis/crd.projectcalico.org/v1/ippools", "/apis/projectcalico.org/v3/ippools"}, pages: 1, rule: "list ippools.crd.projectcalico.org"},
		{kind: ranges.KindCiliumPodPool, paths: []string{"/apis/cilium.io/v2alpha1/ciliumpodippools", "/apis/cilium.io/v2/ciliumpodippools"}, pages: 1, rule: "list ciliumpodippools.cilium.io"},
		{kind: ranges.KindCiliumNode, paths: []string{"/apis/cilium.io/v2/ciliumnodes"}, pages: rangesPages, rule: "list ciliumnodes.cilium.io"},
		{
			kind: ranges.KindPod, paths: []string{"/api/v1/namespaces/kube-system/pods"}, pages: 1, rule: "list pods",
			selector: "component in (kube-controller-manager,kube-apiserver)",
		},
		{kind: ranges.KindNode, paths: []string{"/api/v1/nodes"}, pages: rangesPages, rule: "list nodes"},
		{kind: ranges.KindPod, paths: []string{"/api/v1/pods"}, pages: 1, rule: "list pods"},
		{kind: ranges.KindService, paths: []string{"/api/v1/services"}, pages: 1, rule: "list services"},
	}
}

// FindRanges finds where the cluster's pods and Services have their addresses. What
// is not there says nothing, and what may not be read is named in what is returned;
// an error says that the API server does not answer at all.
func (c *Client) FindRanges(ctx context.Context) (ranges.Found, error) {
	var objects ranges.Objects
	var unread []string
	for _, p := range places() {
		err := c.readPlace(ctx, p, &objects)
		switch {
		case err == nil:
		case apierrors.IsForbidden(err):
			unread = append(unread, fmt.Sprintf("%s (it takes the permission to %s)", p.paths[0], p.rule))
		case apierrors.IsUnauthorized(err), apierrors.ReasonForError(err) == "":
			return ranges.Found{}, fmt.Errorf("find the ranges of pods and services: %w",
				c.describe(err, "get", &Resource{GroupVersion: corev1.SchemeGroupVersion, Plural: p.paths[0]}))
		default:
			unread = append(unread, fmt.Sprintf("%s: %v", p.paths[0], statusOf(err)))
		}
	}
	found := ranges.Decide(&objects)
	found.Unread = unread
	return found, nil
}

// FindRanges does the same with credentials that the caller has already, which it
// leaves as they are; component and version are as in Config.
func FindRanges(ctx context.Context, credentials *rest.Config, component, version string) (ranges.Found, error) {
	c, err := newClient(Config{Component: component, Version: version}, rest.CopyConfig(credentials), "this user")
	if err != nil {
		return ranges.Found{}, err
	}
	defer c.Close()
	return c.FindRanges(ctx)
}

// readPlace adds what stands at the first path that is there.
func (c *Client) readPlace(ctx context.Context, p place, to *ranges.Objects) error {
	var forbidden error
	for _, path := range p.paths {
		err := c.readPath(ctx, p, path, to)
		switch {
		case err == nil:
			return nil
		case apierrors.IsForbidden(err):
			// A group that is not there is forbidden, too, to who may not read it.
			if forbidden == nil {
				forbidden = err
			}
		case !apierrors.IsNotFound(err):
			return err
		}
	}
	return forbidden
}

func (c *Client) readPath(ctx context.Context, p place, path string, to *ranges.Objects) error {
	if p.pages == 0 {
		text, err := c.readJSON(ctx, path, nil)
		if err != nil {
			return err
		}
		to.Add(p.kind, text)
		return nil
	}
	query := url.Values{}
	if p.selector != "" {
		query.Set("labelSelector", p.selector)
	}
	_, err := c.readPages(ctx, path, query, p.pages, func(item []byte) error {
		to.Add(p.kind, item)
		return nil
	})
	return err
}

// readPages hands over the items of a list, of so many pages at most, and returns the
// list's revision, "" when there are more.
func (c *Client) readPages(ctx context.Context, path string, query url.Values, pages int, add func(item []byte) error) (revision string, err error) {
	query.Set("limit", strconv.Itoa(listPage))
	for range pages {
		text, err := c.readJSON(ctx, path, query)
		if err != nil {
			return "", err
		}
		var page struct {
			Metadata struct {
				Continue        string `json:"continue"`
				ResourceVersion string `json:"resourceVersion"`
			} `json:"metadata"`
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(text, &page); err != nil {
			return "", err
		}
		for _, item := range page.Items {
			if err := add(item); err != nil {
				return "", err
			}
		}
		if page.Metadata.Continue == "" {
			return page.Metadata.ResourceVersion, nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
	return "", nil
}

// readJSON returns what stands at a path of the API, of whichever group.
func (c *Client) readJSON(ctx context.Context, path string, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	request := c.groups[corev1.SchemeGroupVersion].Get().AbsPath(path).SetHeader("Accept", "application/json").MaxRetries(0)
	for key, values := range query {
		for _, value := range values {
			request = request.Param(key, value)
		}
	}
	return request.Do(ctx).Raw()
}
