// Package mirror writes the backends that other clusters have for a global Service
// into the own cluster's Kubernetes API, as EndpointSlices: so that what no hook of a
// node sees, NodePorts, headless names, ingress controllers, finds them.
//
// What stands there is compared with what is to stand there, and the difference is
// written: a restart, an object that somebody changed, and leftovers of another run are
// all the same. While a peer's state is not known whole, its objects stay as they are.
package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/service"
)

const (
	// Writes are bounded: what takes a cluster's whole churn is far below, and 500
	// services at a start take ten seconds.
	writesPerSecond = 50
	writesAtOnce    = 50
	// writers are how many services are written at the same time.
	writers = 4
	// pause is how long changes are collected.
	pause = 200 * time.Millisecond
	// unknownRetry is when a service is looked at again whose peer is not known whole.
	unknownRetry = 5 * time.Second

	firstRetry  = time.Second
	lastRetry   = time.Minute
	serverRetry = 5 * time.Second
)

// Verbs are what the service account needs on endpointslices, besides list and watch.
const Verbs = "list, watch, create, patch, delete"

// Config says what is mirrored and where to. All functions are safe for concurrent
// use and block on nothing.
type Config struct {
	Client *kube.Client
	// Want returns what the API is to be told of a service, false for nothing; Names
	// returns the services of which that is something.
	Want  func(service.Name) (service.Mirrored, bool)
	Names func() []service.Name
	// Known reports whether what a cluster has not said is not so.
	Known func(cluster string) bool
	// Elected reports whether this process writes, and returns a channel that is
	// closed when that changes.
	Elected func() (bool, <-chan struct{})
	// Refused is told that the API server refuses a service's objects and why, and
	// with "" that it does no more.
	Refused func(name service.Name, uid, reason string)
	// Skipped is told that backends have addresses which Kubernetes takes in no object,
	// and are left out, and with "" that none has any more.
	Skipped    func(name service.Name, uid, reason string)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are kept but not exposed
}

// Mirror keeps the objects as they are to be.
type Mirror struct {
	cfg     Config
	writer  *kube.Writer
	metrics *metrics
	shelf   *shelf
	wake    chan struct{}

	mu       sync.Mutex
	due      map[service.Name]time.Time   // when a service is looked at; zero for now
	wanted   map[service.Name]expectation // of the services that are mirrored
	away     string                       // why the objects are not followed; "" when they are
	denied   string                       // why none are written; "" when they are
	stuck    map[service.Name]string      // those of which that was found out, and why
	troubles map[service.Name]*trouble
	quiet    time.Time // until when the API server wants no requests
}

// New returns a Mirror that does nothing until Run.
func New(cfg Config) (*Mirror, error) {
	writer, err := cfg.Client.NewWriter(kube.WriterConfig{Resource: resource(), Manager: service.ManagedBy, PerSecond: writesPerSecond, AtOnce: writesAtOnce})
	if err != nil {
		return nil, err
	}
	m := &Mirror{
		cfg: cfg, writer: writer, metrics: newMetrics(cfg.Registerer), wake: make(chan struct{}, 1),
		due: make(map[service.Name]time.Time), wanted: make(map[service.Name]expectation),
		stuck: make(map[service.Name]string), troubles: make(map[service.Name]*trouble),
	}
	m.shelf = newShelf(m.Touch)
	return m, nil
}

func resource() kube.Resource {
	return kube.Resource{
		GroupVersion: discoveryv1.SchemeGroupVersion, Plural: "endpointslices",
		Object: &discoveryv1.EndpointSlice{}, List: &discoveryv1.EndpointSliceList{},
	}
}

// Touch has services looked at. It does not block.
func (m *Mirror) Touch(names []service.Name) {
	m.mu.Lock()
	for _, name := range names {
		m.due[name] = time.Time{}
	}
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends and returns nil then; what stands in the API stays. It is
// called once, when the own cluster has been read whole.
func (m *Mirror) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var follower sync.WaitGroup
	defer follower.Wait()
	defer cancel()
	follower.Go(func() {
		m.cfg.Client.Follow(ctx, kube.FollowConfig{
			Resource: resource(), Labels: service.LabelManagedBy + "=" + service.ManagedBy, Store: m.shelf, Report: m.report,
			Reduce: func(o runtime.Object) runtime.Object {
				if known, ok := o.(*discoveryv1.EndpointSlice); ok {
					return reduce(known)
				}
				return o // the library drops what is of no expected type
			},
		})
	})
	select {
	case <-ctx.Done():
		return nil
	case <-m.shelf.listed:
	}
	m.Touch(m.cfg.Names())
	for {
		elected, changed := m.cfg.Elected()
		next := time.Hour
		if elected {
			next = m.pass(ctx)
		} else {
			m.rest()
		}
		timer := time.NewTimer(max(next, 0))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-m.wake:
		case <-timer.C:
		}
		timer.Stop()
		if !retry.Sleep(ctx, pause) {
			return nil
		}
	}
}

// report notes how it stands with following the objects.
func (m *Mirror) report(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	away := ""
	if err != nil {
		away = err.Error()
	}
	if m.away == away {
		return
	}
	if m.away = away; away == "" {
		m.cfg.Logger.Info("mirrored endpoints are followed again")
		return
	}
	m.cfg.Logger.Warn("mirrored endpoints are not followed and not written, will retry", "error", err)
}

// Problems returns what keeps endpoints from being mirrored, sorted.
func (m *Mirror) Problems() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var problems []string
	if m.away != "" && len(m.wanted) > 0 {
		problems = append(problems, "mirrored endpoints: "+m.away)
	}
	if m.denied != "" { // also where only leftovers are to be removed
		problems = append(problems, "mirrored endpoints: "+m.denied)
	}
	for name, t := range m.troubles {
		if t.told != "" {
			problems = append(problems, fmt.Sprintf("Service %s: its remote backends are not all in the Kubernetes API, which refuses them: %s", name, t.told))
		}
	}
	for name, e := range m.wanted {
		if e.note != "" {
			problems = append(problems, fmt.Sprintf("Service %s: %s", name, e.note))
		}
	}
	slices.Sort(problems)
	return problems
}

// Standing is how it stands with one service.
type Standing struct {
	// Objects and Endpoints are what stands in the API.
	Objects, Endpoints int
	// Wanted is how many endpoints are to stand there.
	Wanted int
	// Reason says why that is not so, as far as it is known.
	Reason string
}

// Standing returns how it stands with a service, and false where it is not mirrored
// and nothing of it is in the API.
func (m *Mirror) Standing(name service.Name) (Standing, bool) {
	want, ok := m.cfg.Want(name)
	s := Standing{Wanted: want.Count()}
	for _, o := range m.shelf.of(name) {
		s.Objects++
		s.Endpoints += len(o.Endpoints)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.away != "":
		s.Reason = m.away
	case m.denied != "":
		s.Reason = m.denied
	case m.troubles[name] != nil && m.troubles[name].told != "":
		s.Reason = m.troubles[name].told
	default:
		s.Reason = m.wanted[name].note
	}
	return s, ok || s.Objects > 0
}
