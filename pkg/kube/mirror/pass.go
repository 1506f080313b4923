package mirror

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// pass looks at all services that are due and returns when the next one is.
func (m *Mirror) pass(ctx context.Context) time.Duration {
	names := m.take(time.Now())
	var g errgroup.Group
	g.SetLimit(writers)
	var held holdup
	for _, name := range names {
		g.Go(func() error {
			if held.is() || m.absent() || ctx.Err() != nil {
				m.again(name, serverRetry)
				return nil
			}
			m.settle(ctx, name, &held)
			return nil
		})
	}
	_ = g.Wait()
	m.count()
	return m.next(time.Now())
}

// holdup says that no further service is tried in this pass.
type holdup struct {
	mu sync.Mutex
	on bool
}

func (h *holdup) is() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on
}

func (h *holdup) set() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.on = true
}

// take returns the services that are due, sorted by name.
func (m *Mirror) take(now time.Time) []service.Name {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []service.Name
	for name, at := range m.due {
		if !at.After(now) {
			names = append(names, name)
			delete(m.due, name)
		}
	}
	slices.SortFunc(names, func(a, b service.Name) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return names
}

func (m *Mirror) next(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := time.Hour
	for _, at := range m.due {
		next = min(next, at.Sub(now))
	}
	return next
}

// again has a service looked at later, unless it is due before.
func (m *Mirror) again(name service.Name, after time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := time.Now().Add(after)
	if before, ok := m.due[name]; !ok || at.Before(before) {
		m.due[name] = at
	}
}

// absent reports whether the API server is not followed: then what stands there is
// not known, and it may even be another cluster's.
func (m *Mirror) absent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.away != ""
}

// settle makes the objects of a service what they are to be, and notes how that went.
func (m *Mirror) settle(ctx context.Context, name service.Name, held *holdup) {
	want, ok := m.cfg.Want(name)
	m.expect(name, &want, ok)
	unknown, err := m.write(ctx, name, &want, ok)
	if unknown {
		m.again(name, unknownRetry)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		m.succeed(name, want.UID)
	case apierrors.IsConflict(err):
		m.again(name, firstRetry)
	case leaving(err):
		m.again(name, lastRetry)
	default:
		m.fail(name, want.UID, err, held)
	}
}

func (m *Mirror) expect(name service.Name, want *service.Mirrored, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ok {
		m.wanted[name] = want.Count()
	} else {
		delete(m.wanted, name)
	}
}

// write applies what is missing or differs, then removes what is too much, so that an
// endpoint that moves from one object to another is never in none. It reports whether
// it left something alone as the cluster that it is of is not known whole.
func (m *Mirror) write(ctx context.Context, name service.Name, want *service.Mirrored, ok bool) (unknown bool, err error) {
	objects := map[string]*discoveryv1.EndpointSlice{}
	if ok {
		objects = pack(want)
	}
	have := m.shelf.of(name)
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		o := objects[key]
		switch {
		case have[key] != nil && same(have[key], o):
		case !m.cfg.Known(o.Labels[Cluster]):
			unknown = true
		default:
			errs = append(errs, m.apply(ctx, o))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return unknown, worst(errs) // what is too much may be all that clients have
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		o := have[key]
		switch {
		case objects[key] != nil:
		case ok && !m.cfg.Known(o.Labels[Cluster]):
			unknown = true
		default:
			errs = append(errs, m.remove(ctx, o))
		}
	}
	return unknown, worst(errs)
}

// worst returns the error that says most about what helps: permission before server
// before object.
func worst(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 0 {
		return nil
	}
	rank := func(err error) int {
		switch kube.FaultOf(err) {
		case kube.FaultPermission:
			return 0
		case kube.FaultServer:
			return 1
		}
		return 2
	}
	return slices.MinFunc(errs, func(a, b error) int { return rank(a) - rank(b) })
}

func (m *Mirror) apply(ctx context.Context, o *discoveryv1.EndpointSlice) error {
	made, err := m.writer.Apply(ctx, o)
	m.tally(verbApply, err)
	if err != nil {
		return err
	}
	m.shelf.note(reduce(made.(*discoveryv1.EndpointSlice)))
	return nil
}

func (m *Mirror) remove(ctx context.Context, o *discoveryv1.EndpointSlice) error {
	err := m.writer.Delete(ctx, o.Namespace, o.Name, o.UID)
	m.tally(verbDelete, err)
	if err != nil {
		return err
	}
	m.shelf.Remove(o)
	return nil
}

func (m *Mirror) tally(verb string, err error) {
	result := resultDone
	if err != nil {
		result = resultFailed
		if kube.FaultOf(err) == kube.FaultObject {
			result = resultRefused
		}
	}
	m.metrics.requests.WithLabelValues(verb, result).Inc()
}

// leaving reports whether a write failed as the Service or its namespace goes.
func leaving(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

func (m *Mirror) succeed(name service.Name, uid string) {
	m.mu.Lock()
	delete(m.stuck, name)
	free, wasRefused := m.denied != "" && len(m.stuck) == 0, m.failed[name] != nil
	if free {
		m.denied = ""
	}
	delete(m.failed, name)
	m.mu.Unlock()
	if free {
		m.cfg.Logger.Info("mirrored endpoints are written again")
	}
	if wasRefused {
		m.cfg.Refused(name, uid, "")
	}
}

// fail notes an error; unless it is about this service alone, the others wait with it.
func (m *Mirror) fail(name service.Name, uid string, err error, held *holdup) {
	why := m.writer.Explain(err, Verbs).Error()
	if kube.FaultOf(err) == kube.FaultObject {
		m.refuse(name, uid, why, kube.RetryAfter(err))
		return
	}
	held.set()
	m.again(name, max(serverRetry, kube.RetryAfter(err)))
	m.mu.Lock()
	news := m.denied != why
	m.denied = why
	m.stuck[name] = true
	m.mu.Unlock()
	if news {
		m.cfg.Logger.Warn("mirrored endpoints are not written, will retry; all else works", "error", why)
	}
}

func (m *Mirror) refuse(name service.Name, uid, why string, after time.Duration) {
	m.mu.Lock()
	f := m.failed[name]
	if f == nil {
		f = &failure{pause: retry.Backoff{First: firstRetry, Limit: lastRetry}}
		m.failed[name] = f
	}
	news := f.reason != why
	f.reason = why
	after = max(after, f.pause.Next())
	m.mu.Unlock()
	m.again(name, after)
	if news {
		m.cfg.Logger.Warn("mirrored endpoints of a service are refused, will retry", "service", name.String(), "error", why)
		m.cfg.Refused(name, uid, why)
	}
}

func (m *Mirror) count() {
	objects := m.shelf.count() // it has a lock of its own, under which it calls Touch
	m.mu.Lock()
	defer m.mu.Unlock()
	endpoints := 0
	for _, n := range m.wanted {
		endpoints += n
	}
	m.metrics.services.Set(float64(len(m.wanted)))
	m.metrics.endpoints.Set(float64(endpoints))
	m.metrics.refused.Set(float64(len(m.failed)))
	m.metrics.objects.Set(float64(objects))
}
