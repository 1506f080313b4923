package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// ErrOtherCluster says that an API server is not that of the cluster that was
// followed before.
var ErrOtherCluster = errors.New("this API server is that of another cluster")

// errNoSystem is an API server that has only just begun with an empty etcd.
var errNoSystem = errors.New("the API server has no namespace kube-system: its etcd is new, or empty")

// checkError is what went wrong when it was asked which cluster this is.
type checkError struct{ err error }

func (e *checkError) Error() string { return "ask for the namespace kube-system: " + e.err.Error() }
func (e *checkError) Unwrap() error { return e.err }

// describe says what is wrong and what to do, without what differs from request to
// request.
func (c *Client) describe(err error, verb string, r *Resource) error {
	group, plural := r.GroupVersion.Group, r.Plural
	if check := (*checkError)(nil); errors.As(err, &check) {
		group, plural, verb = corev1.GroupName, "namespaces", "list"
	}
	var request *url.Error
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; give it a ClusterRole with the rule apiGroups: [%q], resources: [%q], verbs: [list, watch] (%s is missing)",
			statusOf(err), group, plural, verb)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not accept the credentials of %s: have they ended, or are they another cluster's?", c.server, c.who)
	case errors.Is(err, errCut):
		return fmt.Errorf("list %s at %s: %w; is there something between that ends long answers?", plural, c.server, err)
	case apierrors.IsTooManyRequests(err):
		return fmt.Errorf("%s has us wait: too many requests", c.server)
	case errors.As(err, &request) && errors.Is(request.Err, context.DeadlineExceeded):
		return fmt.Errorf("%s does not answer", c.server)
	case errors.As(err, &request):
		return fmt.Errorf("%s cannot be reached: %w", c.server, withoutPorts(request.Err))
	case apierrors.ReasonForError(err) != "":
		return fmt.Errorf("%s %s at %s: %w", verb, plural, c.server, statusOf(err))
	}
	return err
}

// statusOf returns what an API server answered, without where it was asked.
func statusOf(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		if e, ok := status.(error); ok {
			return e
		}
	}
	return err
}

// withoutPorts leaves out the ends of a connection, of which each attempt has another.
func withoutPorts(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op != "dial" {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}
