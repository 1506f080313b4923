package mirror

import (
	"cmp"
	"context"
	"fmt"
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
	"github.com/causeway-mesh/causeway/pkg/service"
)

// pass looks at all services that are due and returns when the next one is.
func (m *Mirror) pass(ctx context.Context) time.Duration {
	if wait := m.asked(time.Now()); wait > 0 {
		return wait
	}
	names := m.take(time.Now())
	var g errgroup.Group
	g.SetLimit(writers)
	var held holdup
	for _, name := range names {
		g.Go(func() error {
			if !m.leads() {
				m.again(name, 0)
				return nil
			}
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

// asked returns how long the API server has us wait, whatever changes meanwhile.
func (m *Mirror) asked(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.quiet.Sub(now)
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

// settle makes the objects of a service what they are to be, those of one cluster
// after those of another, and notes how that went. What is refused of one cluster
// holds up no other's.
func (m *Mirror) settle(ctx context.Context, name service.Name, held *holdup) {
	want, ok := m.cfg.Want(name)
	m.expect(name, &want, ok)
	parts := m.parts(name, &want, ok)
	m.forget(name, parts)
	for _, p := range parts {
		if !m.leads() {
			m.again(name, 0)
			return
		}
		wait := m.waits(name, p.cluster)
		switch {
		case len(p.apply)+len(p.remove) == 0:
			m.accept(name, p.cluster)
		case wait > 0:
			m.again(name, wait)
		case ok && !m.cfg.Known(p.cluster):
			m.again(name, unknownRetry)
		default:
			err := m.write(ctx, p)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !leaving(err) && kube.FaultOf(err) != kube.FaultObject {
				m.fail(name, err, held)
				return
			}
			m.judge(name, p.cluster, err)
		}
	}
	m.free(name)
	m.tell(name, want.UID)
}

// leads reports whether this process still writes: a replica that lost the lead in
// the middle of a pass leaves the rest to the one that has it.
func (m *Mirror) leads() bool {
	elected, _ := m.cfg.Elected()
	return elected
}

// expectation is what is to stand of a service, and what cannot.
type expectation struct {
	endpoints, unusable int
	note                string // of what cannot, "" for nothing
}

func (m *Mirror) expect(name service.Name, want *service.Mirrored, ok bool) {
	e := expectation{endpoints: want.Count(), note: unusable(want.Unusable)}
	for _, u := range want.Unusable {
		e.unusable += u.Count
	}
	m.mu.Lock()
	before := m.wanted[name].note
	if ok {
		m.wanted[name] = e
	} else {
		delete(m.wanted, name)
	}
	m.mu.Unlock()
	if e.note != before {
		m.cfg.Skipped(name, want.UID, e.note)
	}
}

// unusable says what is left out of a service's objects, "" for nothing.
func unusable(list []service.Unusable) string {
	var texts []string
	for _, u := range list {
		text := u.Cluster + " gives " + u.First.String()
		if u.Count > 1 {
			text += fmt.Sprintf(" and %d more", u.Count-1)
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return ""
	}
	return "backends are left out, as Kubernetes takes no loopback, link-local, multicast or unspecified addresses in EndpointSlices: " + strings.Join(texts, ", ")
}

// part is what a service lacks and has too much of, of one cluster's backends.
type part struct {
	cluster       string
	apply, remove []*discoveryv1.EndpointSlice // sorted by name
}

// parts returns what there is of a service, and is to be, sorted by cluster.
func (m *Mirror) parts(name service.Name, want *service.Mirrored, ok bool) []*part {
	objects := map[string]*discoveryv1.EndpointSlice{}
	if ok {
		objects = pack(want)
	}
	have := m.shelf.of(name)
	parts := map[string]*part{}
	of := func(o *discoveryv1.EndpointSlice) *part {
		cluster := o.Labels[Cluster]
		if parts[cluster] == nil {
			parts[cluster] = &part{cluster: cluster}
		}
		return parts[cluster]
	}
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		p := of(objects[key])
		if have[key] == nil || !same(have[key], objects[key]) {
			p.apply = append(p.apply, objects[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if objects[key] == nil {
			p := of(have[key])
			p.remove = append(p.remove, have[key])
		}
	}
	return slices.SortedFunc(maps.Values(parts), func(a, b *part) int { return strings.Compare(a.cluster, b.cluster) })
}

// write applies what is missing or differs, then removes what is too much, so that an
// endpoint that moves from one object to another is never in none. What is refused of
// an object keeps the next from being tried no more than the part's removals: what is
// too much may be all that clients have.
func (m *Mirror) write(ctx context.Context, p *part) error {
	var errs []error
	note := func(err error) (goOn bool) {
		if err != nil {
			errs = append(errs, err)
		}
		return err == nil || kube.FaultOf(err) == kube.FaultObject
	}
	for _, o := range p.apply {
		if err := m.apply(ctx, o); !note(err) {
			return err
		}
	}
	if len(errs) > 0 {
		return worst(errs)
	}
	for _, o := range p.remove {
		if err := m.remove(ctx, o); !note(err) {
			return err
		}
	}
	return worst(errs)
}

// worst returns the error that says most about what helps, nil for none: that an
// object changed meanwhile is the least.
func worst(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return slices.MinFunc(errs, func(a, b error) int {
		switch {
		case changed(a) == changed(b):
			return 0
		case changed(b):
			return -1
		}
		return 1
	})
}

// apply makes an object as it is to be. One of ours is made so whatever others wrote
// into it; one that has not our label is another's, whatever it is called.
func (m *Mirror) apply(ctx context.Context, o *discoveryv1.EndpointSlice) error {
	write := m.writer.ApplyOwn
	if m.shelf.has(o.Namespace, o.Name) {
		write = m.writer.Apply
	}
	made, err := write(ctx, o)
	m.tally(verbApply, err)
	if taken := kube.TakenBy(err); taken != "" {
		return &foreign{name: o.Name, err: err}
	}
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

// foreign is an object that is called like one of ours and is not.
type foreign struct {
	name string
	err  error
}

func (f *foreign) Error() string {
	return fmt.Sprintf("EndpointSlice %s is not ours, as it has not the label %s=%s: it is left as it is; delete it, or give it another name (%s)",
		f.name, service.LabelManagedBy, service.ManagedBy, kube.TakenBy(f.err))
}

func (f *foreign) Unwrap() error { return f.err }

// changed reports whether a write failed as the object is not what it was.
func changed(err error) bool { return apierrors.IsConflict(err) && kube.TakenBy(err) == "" }

// leaving reports whether a write failed as the Service or its namespace goes.
func leaving(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

func (m *Mirror) count() {
	objects := m.shelf.count() // it has a lock of its own, under which it calls Touch
	m.mu.Lock()
	defer m.mu.Unlock()
	endpoints, unusable := 0, 0
	for _, e := range m.wanted {
		endpoints += e.endpoints
		unusable += e.unusable
	}
	m.metrics.services.Set(float64(len(m.wanted)))
	m.metrics.endpoints.Set(float64(endpoints))
	m.metrics.unusable.Set(float64(unusable))
	refused := 0
	for _, t := range m.troubles {
		if t.told != "" {
			refused++
		}
	}
	m.metrics.refused.Set(float64(refused))
	m.metrics.objects.Set(float64(objects))
}
