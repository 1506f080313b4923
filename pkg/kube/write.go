package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// writeTimeout is how long one write may take.
const writeTimeout = 30 * time.Second

// WriterConfig says what is written, and by whom.
type WriterConfig struct {
	Resource Resource
	// Manager is the field manager: what it set once and leaves out later goes.
	Manager string
	// PerSecond and AtOnce bound the requests, which are not taken off those of who
	// follows.
	PerSecond float32
	AtOnce    int
}

// Writer writes objects of one resource. It is safe for concurrent use.
type Writer struct {
	cfg    WriterConfig
	client *Client
	rest   *rest.RESTClient
}

// NewWriter returns a writer that has written nothing yet.
func (c *Client) NewWriter(cfg WriterConfig) (*Writer, error) {
	base := rest.CopyConfig(c.base)
	base.QPS, base.Burst = cfg.PerSecond, cfg.AtOnce
	group, err := groupClient(base, cfg.Resource.GroupVersion, c.transport)
	if err != nil {
		return nil, fmt.Errorf("writer of %s for %s: %w", cfg.Resource.Plural, c.server, err)
	}
	return &Writer{cfg: cfg, client: c, rest: group}, nil
}

// Apply makes an object be as o says in all that o holds, by server-side apply: also
// where another manager said otherwise. o needs its TypeMeta. It returns what there
// is then.
func (w *Writer) Apply(ctx context.Context, o metav1.Object) (runtime.Object, error) {
	return w.apply(ctx, o, true)
}

// ApplyOwn is Apply where nothing is taken from another manager: where one said
// otherwise, it fails, and TakenBy says so.
func (w *Writer) ApplyOwn(ctx context.Context, o metav1.Object) (runtime.Object, error) {
	return w.apply(ctx, o, false)
}

// TakenBy returns what the API server says of the managers to whom an object belongs
// that ApplyOwn was to write, "" where an error is another.
func TakenBy(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return ""
	}
	return status.Status().Message
}

func (w *Writer) apply(ctx context.Context, o metav1.Object, force bool) (runtime.Object, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	options := &metav1.PatchOptions{FieldManager: w.cfg.Manager, Force: &force}
	return w.send(ctx, w.rest.Patch(types.ApplyYAMLPatchType), o.GetNamespace(), o.GetName(), options, text)
}

// Create makes an object that is not there.
func (w *Writer) Create(ctx context.Context, namespace string, o runtime.Object) (runtime.Object, error) {
	return w.send(ctx, w.rest.Post(), namespace, "", &metav1.CreateOptions{FieldManager: w.cfg.Manager}, o)
}

// Get returns an object as it is.
func (w *Writer) Get(ctx context.Context, namespace, name string) (runtime.Object, error) {
	return w.send(ctx, w.rest.Get(), namespace, name, &metav1.GetOptions{}, nil)
}

// Merge changes what the patch, JSON, names.
func (w *Writer) Merge(ctx context.Context, namespace, name string, patch []byte) (runtime.Object, error) {
	return w.send(ctx, w.rest.Patch(types.MergePatchType), namespace, name, &metav1.PatchOptions{FieldManager: w.cfg.Manager}, patch)
}

// Delete removes the object of that uid; one that is not there is fine.
func (w *Writer) Delete(ctx context.Context, namespace, name string, uid types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := w.rest.Delete().Namespace(namespace).Resource(w.cfg.Resource.Plural).Name(name).MaxRetries(0).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (w *Writer) send(ctx context.Context, r *rest.Request, namespace, name string, options runtime.Object, body any) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	r = r.Namespace(namespace).Resource(w.cfg.Resource.Plural).VersionedParams(options, w.client.params).MaxRetries(0)
	if name != "" {
		r = r.Name(name)
	}
	if body != nil {
		r = r.Body(body)
	}
	made := w.cfg.Resource.Object.DeepCopyObject()
	return made, r.Do(ctx).Into(made)
}

// Fault says whose fault it is that a write failed, and so what helps.
type Fault int

// The faults: the API server is away, or has us wait; this object, which others do
// not share; the permission to write at all.
const (
	FaultServer Fault = iota
	FaultObject
	FaultPermission
)

// FaultOf returns whose fault an error of a Writer is.
func FaultOf(err error) Fault {
	var request *url.Error
	switch {
	case apierrors.IsForbidden(err) && lacksVerb(err):
		return FaultPermission
	case apierrors.IsUnauthorized(err), apierrors.IsTooManyRequests(err), errors.As(err, &request), errors.Is(err, context.DeadlineExceeded):
		return FaultServer
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code < http.StatusInternalServerError {
		return FaultObject
	}
	// A webhook that cannot be reached is answered by 500: it concerns its objects.
	if apierrors.IsInternalError(err) && strings.Contains(err.Error(), "webhook") {
		return FaultObject
	}
	return FaultServer
}

// lacksVerb tells the answer of an authorizer from that of admission, which may be
// 403 too: by its words, since nothing else differs.
func lacksVerb(err error) bool {
	text := err.Error()
	return strings.Contains(text, "cannot ") && strings.Contains(text, " resource \"")
}

// Explain says what is wrong with a write and what to do, without what differs from
// one request to the next.
func (w *Writer) Explain(err error, verbs string) error {
	r := w.cfg.Resource
	if FaultOf(err) == FaultPermission {
		return fmt.Errorf("not allowed to write %s; give it a ClusterRole with the rule apiGroups: [%q], resources: [%s], verbs: [%s]",
			r.Plural, r.GroupVersion.Group, r.Plural, verbs)
	}
	return w.client.describe(err, "write", &r)
}

// RetryAfter returns how long the API server asks to wait, 0 when it does not say.
func RetryAfter(err error) time.Duration {
	seconds, _ := apierrors.SuggestsClientDelay(err)
	return time.Duration(seconds) * time.Second
}

// Older compares resourceVersions of one object; those that are no numbers cannot be
// compared.
func Older(revision, than string) bool { return older(revision, than) }
