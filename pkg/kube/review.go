package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// ErrToken is for a token that Kubernetes does not vouch for.
var ErrToken = errors.New("the token is not one that Kubernetes vouches for")

// What Kubernetes knows of the pod that it gave a token to.
const (
	accountUser = "system:serviceaccount:"
	extraPod    = "authentication.kubernetes.io/pod-name"
	extraNode   = "authentication.kubernetes.io/node-name"
)

// Holder is who Kubernetes gave a service account's token to.
type Holder struct {
	// Account is the service account, as namespace/name.
	Account string
	// Pod and Node are empty where the token is not bound to a pod, or Kubernetes
	// does not say on which node that is (it does from 1.32 on).
	Pod, Node string
}

// Review asks Kubernetes who a service account's token for audience was given to.
// It says so only while the token's time lasts and its pod exists. The error wraps
// ErrToken when the token is at fault, and holds nothing of it. These requests wait
// for each other, and hold up no others.
func (c *Client) Review(ctx context.Context, token, audience string) (Holder, error) {
	var answer authenticationv1.TokenReview
	err := c.groups[authenticationv1.SchemeGroupVersion].Post().Resource("tokenreviews").
		Body(&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}}}).
		Do(ctx).Into(&answer)
	if apierrors.IsForbidden(err) {
		return Holder{}, fmt.Errorf("%w; give it a ClusterRole with the rule apiGroups: [%q], resources: [tokenreviews], verbs: [create]",
			statusOf(err), authenticationv1.GroupName)
	}
	if err != nil {
		return Holder{}, c.describe(err, "create", &Resource{GroupVersion: authenticationv1.SchemeGroupVersion, Plural: "tokenreviews"})
	}
	return holderOf(answer.Status, audience)
}

func holderOf(status authenticationv1.TokenReviewStatus, audience string) (Holder, error) {
	if !status.Authenticated {
		return Holder{}, fmt.Errorf("%w: %s", ErrToken, cmp.Or(status.Error, "it has ended, was altered, or its pod is gone"))
	}
	// An authenticator that knows no audiences leaves them out.
	if !slices.Contains(status.Audiences, audience) {
		return Holder{}, fmt.Errorf("%w: not for the audience %q", ErrToken, audience)
	}
	account, ok := strings.CutPrefix(status.User.Username, accountUser)
	if !ok {
		return Holder{}, fmt.Errorf("%w as a pod's: it is of the user %q", ErrToken, status.User.Username)
	}
	return Holder{
		Account: strings.Replace(account, ":", "/", 1),
		Pod:     only(status.User.Extra[extraPod]), Node: only(status.User.Extra[extraNode]),
	}, nil
}

// only returns the one value that there is, "" for none and for several.
func only(values authenticationv1.ExtraValue) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}
