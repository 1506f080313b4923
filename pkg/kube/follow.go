package kube

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
	// outage is how long an API server may be away before all is listed anew: an etcd
	// that was restored meanwhile may have come to the same revisions by other changes.
	// None is restored and serves again in less.
	outage = time.Second
)

// errCut is a streamed listing of which only a part came. The library begins anew at
// once, and says nothing.
var errCut = errors.New("the connection ended before the listing was whole")

// Resource is a kind of object as the API names it.
type Resource struct {
	GroupVersion schema.GroupVersion
	Plural       string         // "pods"
	Object       runtime.Object // an empty one
	List         runtime.Object // an empty list of them
}

// Store receives the objects of one resource; its methods are called by one
// goroutine. Objects are those that Reduce returned, and belong to the store.
type Store interface {
	// Replace is given all objects that there are.
	Replace(objects []runtime.Object)
	// Put is given one that is new or differs, Remove one that is gone.
	Put(object runtime.Object)
	Remove(object runtime.Object)
}

// FollowConfig says what is followed and who receives it.
type FollowConfig struct {
	Resource Resource
	// Labels is a selector of what is followed, "" for all.
	Labels string
	// Reduce returns of an object what is kept of it, as a new object; its
	// resourceVersion has to stay. It is called as soon as an object is decoded, so
	// that no listing is ever in memory whole.
	Reduce func(runtime.Object) runtime.Object
	Store  Store
	// Report is told of each attempt to reach the API server how that went: nil when
	// it answers. The error says what is wrong and what to do, and is the same as
	// long as the same is wrong.
	Report func(error)
}

// Follow lists a resource, gives it to the store and follows its changes until ctx
// ends. Whatever fails is tried again, after 5 s at most.
func (c *Client) Follow(ctx context.Context, cfg FollowConfig) {
	f := &follower{FollowConfig: cfg, ctx: ctx, client: c, rest: c.groups[cfg.Resource.GroupVersion]}
	// What goes wrong is told by Report; the library's own lines would repeat it.
	silent := logr.Discard()
	reflector := cache.NewReflectorWithOptions(
		&cache.ListWatch{ListWithContextFunc: f.list, WatchFuncWithContext: f.watch},
		cfg.Resource.Object, mirror{f},
		cache.ReflectorOptions{
			Name: cfg.Resource.Plural, Logger: &silent,
			Backoff: &wait.Backoff{Duration: firstRetry, Cap: lastRetry, Factor: 2, Jitter: 0.5, Steps: 10},
		})
	reflector.RunWithContext(klog.NewContext(ctx, silent))
}

// follower makes the requests of one Follow. One goroutine uses it.
type follower struct {
	FollowConfig
	// ctx is kept since the library gives listings one that never ends.
	ctx    context.Context
	client *Client
	rest   *rest.RESTClient

	away    time.Time // since when the API server does not answer; zero when it does
	arrives bool      // a streamed listing was begun and is not whole yet
	cut     retry.Backoff
}

// list returns one page of a listing. It is asked only of API servers that cannot
// stream one.
func (f *follower) list(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
	// "" is what holds now; the library would also take an older state.
	o.ResourceVersion, o.ResourceVersionMatch = "", ""
	o.LabelSelector = f.Labels
	var page runtime.Object
	err := f.attempt("list", func() error {
		if err := f.client.checkCluster(f.ctx); err != nil {
			return err
		}
		page = f.Resource.List.DeepCopyObject()
		return f.rest.Get().Resource(f.Resource.Plural).VersionedParams(&o, f.client.params).MaxRetries(0).Do(f.ctx).Into(page)
	})
	if err != nil {
		return nil, err
	}
	items, err := meta.ExtractList(page)
	if err != nil {
		return nil, err
	}
	for i := range items {
		items[i] = f.Reduce(items[i])
	}
	return page, meta.SetList(page, items)
}

// watch opens a stream, of all objects and then their changes, or of changes alone.
func (f *follower) watch(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch, o.LabelSelector = true, f.Labels
	listing := o.SendInitialEvents != nil && *o.SendInitialEvents
	if listing {
		o.ResourceVersion = "" // as in list
		if f.arrives && !f.waitAfterCut() {
			return nil, f.ctx.Err()
		}
	}
	f.arrives = listing
	var stream watch.Interface
	err := f.attempt("watch", func() (err error) {
		if err := f.client.checkCluster(f.ctx); err != nil {
			return err
		}
		if !listing {
			if f.wasAway(time.Now()) {
				return apierrors.NewResourceExpired("the API server was away")
			}
			if err := f.checkHistory(o.ResourceVersion); err != nil {
				return err
			}
		}
		stream, err = f.rest.Get().Resource(f.Resource.Plural).VersionedParams(&o, f.client.params).MaxRetries(0).Watch(f.ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// wasAway says whether the API server did not answer for so long that its history
// may be another one.
func (f *follower) wasAway(now time.Time) bool {
	return !f.away.IsZero() && now.Sub(f.away) > outage
}

// waitAfterCut tells of a listing that was cut and waits for the next one's turn: a
// listing costs the API server something. It says whether ctx goes on.
func (f *follower) waitAfterCut() bool {
	f.Report(f.client.describe(errCut, "watch", &f.Resource))
	f.cut.First, f.cut.Limit = firstRetry, lastRetry
	return retry.Sleep(f.ctx, f.cut.Next())
}

// whole notes that a listing has come to its end.
func (f *follower) whole() {
	f.arrives = false
	if f.cut.Attempts() > 0 {
		f.cut.Reset()
		f.Report(nil)
	}
}

// attempt makes a request until it is answered, and returns errors only that lead
// to another one.
func (f *follower) attempt(verb string, request func() error) error {
	pause := retry.Backoff{First: firstRetry, Limit: lastRetry}
	for {
		err := request()
		switch {
		case f.ctx.Err() != nil:
			return f.ctx.Err()
		case err == nil:
			f.away = time.Time{}
			if f.cut.Attempts() == 0 { // else when all has come
				f.Report(nil)
			}
			return nil
		case leadsOn(err):
			f.away = time.Time{}
			return err
		case f.away.IsZero() && !apierrors.IsTooManyRequests(err):
			f.away = time.Now()
		}
		f.Report(f.client.describe(err, verb, &f.Resource))
		delay := pause.Next()
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			delay = max(delay, time.Duration(seconds)*time.Second)
		}
		if !retry.Sleep(f.ctx, delay) {
			return f.ctx.Err()
		}
	}
}

// leadsOn says whether an error tells to list again: the history is gone, or the
// API server streams no listings.
func leadsOn(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err)
}

// mirror is a Store as the library sees it. What a listing consists of has been
// reduced when it comes.
type mirror struct{ *follower }

var errNoObject = errors.New("the API server sent what is no object")

func (m mirror) Replace(list []any, _ string) error {
	objects := make([]runtime.Object, 0, len(list))
	for _, item := range list {
		o, ok := item.(runtime.Object)
		if !ok {
			return errNoObject
		}
		objects = append(objects, o)
	}
	m.Store.Replace(objects)
	m.whole()
	return nil
}

func (m mirror) Add(item any) error    { return m.give(item, m.Store.Put) }
func (m mirror) Update(item any) error { return m.give(item, m.Store.Put) }
func (m mirror) Delete(item any) error { return m.give(item, m.Store.Remove) }
func (m mirror) Resync() error         { return nil }

// Transformer reduces the objects of a streamed listing while they arrive.
func (m mirror) Transformer() cache.TransformFunc {
	return func(item any) (any, error) {
		o, ok := item.(runtime.Object)
		if !ok {
			return nil, errNoObject
		}
		return m.Reduce(o), nil
	}
}

func (m mirror) give(item any, to func(runtime.Object)) error {
	o, ok := item.(runtime.Object)
	if !ok {
		return errNoObject
	}
	to(m.Reduce(o))
	return nil
}
