package source

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// KubernetesConfig says which API server is followed and who receives what it has.
type KubernetesConfig struct {
	Client     *kube.Client
	Sink       Sink
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are kept but not exposed
}

// Kubernetes is a source that follows a cluster's API server. The sink is given
// nothing before all kinds have been listed once: half of a cluster would be
// published in the place of a whole one. From then on what was read stays, whatever
// becomes of the API server, until that says something else.
type Kubernetes struct {
	cfg     KubernetesConfig
	metrics *metrics
	ledger  *ledger
	wake    chan struct{}

	mu    sync.Mutex
	kinds map[Kind]*standing
}

// standing is how it stands with one kind.
type standing struct {
	listed  bool
	failure string // why it is not followed at present; "" when it is
	since   time.Time
}

// NewKubernetes returns a source that does nothing until Run.
func NewKubernetes(cfg KubernetesConfig) *Kubernetes {
	k := &Kubernetes{
		cfg: cfg, metrics: newMetrics(cfg.Registerer), ledger: newLedger(),
		wake: make(chan struct{}, 1), kinds: make(map[Kind]*standing),
	}
	for _, kind := range Kinds() {
		k.kinds[kind] = &standing{}
	}
	k.metrics.follow(cfg.Registerer)
	return k
}

// Run gives the sink what the API server has and follows its changes until ctx
// ends; it returns nil then, and the sink's error when that fails. It may be
// called once.
func (k *Kubernetes) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer k.cfg.Client.Close()
	defer followers.Wait()
	defer cancel()
	for _, kind := range Kinds() {
		followers.Go(func() {
			k.cfg.Client.Follow(ctx, kube.FollowConfig{
				Resource: resourceOf(kind), Labels: labelsOf(kind),
				Reduce: func(o runtime.Object) runtime.Object {
					if known, ok := o.(Object); ok {
						return reduce(known)
					}
					return o // the library drops what is of no expected type
				},
				Store:  &shelf{source: k, kind: kind},
				Report: func(err error) { k.report(kind, err, time.Now()) },
			})
		})
	}
	complete := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		}
		if !complete && !k.allListed() {
			continue
		}
		if err := k.give(ctx); err != nil {
			return err
		}
		if !complete {
			complete = true
			k.cfg.Logger.Info("all objects of the Kubernetes API read", "server", k.cfg.Client.Server())
			if err := k.cfg.Sink.Complete(ctx); err != nil {
				return fmt.Errorf("complete the listing of the Kubernetes API: %w", err)
			}
		}
	}
}

func (k *Kubernetes) give(ctx context.Context) error {
	changes, counts := k.ledger.flush()
	k.metrics.count(counts)
	if len(changes) == 0 {
		return nil
	}
	k.cfg.Logger.Debug("objects changed", "changes", len(changes))
	if err := k.cfg.Sink.Apply(ctx, changes); err != nil {
		return fmt.Errorf("apply %d changes of the Kubernetes API: %w", len(changes), err)
	}
	return nil
}

func (k *Kubernetes) allListed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.kinds {
		if !s.listed {
			return false
		}
	}
	return true
}

// poke has Run look at the ledger.
func (k *Kubernetes) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// listed notes that a kind has been read whole.
func (k *Kubernetes) listed(kind Kind) {
	k.metrics.listings.WithLabelValues(labelOf(kind)).Inc()
	k.mu.Lock()
	s := k.kinds[kind]
	s.listed = true
	k.metrics.synced.WithLabelValues(labelOf(kind)).Set(asFloat(s.failure == ""))
	k.metrics.problems.Set(float64(len(k.problems())))
	k.mu.Unlock()
	k.poke()
}

// report notes how an attempt to reach the API server went, and logs what is new.
func (k *Kubernetes) report(kind Kind, err error, now time.Time) {
	failure := ""
	if err != nil {
		failure = err.Error()
		k.metrics.failures.WithLabelValues(labelOf(kind)).Inc()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.kinds[kind]
	k.metrics.synced.WithLabelValues(labelOf(kind)).Set(asFloat(s.listed && failure == ""))
	if s.failure == failure {
		return
	}
	plural := resourceOf(kind).Plural
	if failure == "" {
		k.cfg.Logger.Info("kind is followed in the Kubernetes API again", "kind", plural)
	} else {
		k.cfg.Logger.Warn("kind is not followed in the Kubernetes API, will retry", "kind", plural, "error", failure)
	}
	if s.failure == "" {
		s.since = now
	}
	s.failure = failure
	k.metrics.problems.Set(float64(len(k.problems())))
}

// Problems returns what is wrong at present: for each reason one, whose File names
// the kinds that it holds up. It may be called at any time by any goroutine.
func (k *Kubernetes) Problems() []Problem {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problems()
}

func (k *Kubernetes) problems() []Problem {
	consequence := "; what was read before stays in effect"
	for _, s := range k.kinds {
		if !s.listed {
			consequence = "; nothing is published or withdrawn before all kinds have been read"
		}
	}
	var problems []Problem
	for _, kind := range Kinds() {
		s := k.kinds[kind]
		if s.failure == "" {
			continue
		}
		plural, message := resourceOf(kind).Plural, s.failure+consequence
		at := slices.IndexFunc(problems, func(p Problem) bool { return p.Message == message })
		if at < 0 {
			problems = append(problems, Problem{File: plural, Message: message, Since: s.since})
			continue
		}
		problems[at].File += ", " + plural
		if s.since.Before(problems[at].Since) {
			problems[at].Since = s.since
		}
	}
	return problems
}

// labelsOf returns the selector of a kind's objects, "" for all: what a mesh wrote of
// other clusters' backends is no part of this cluster.
func labelsOf(kind Kind) string {
	if kind != KindEndpointSlice {
		return ""
	}
	return fmt.Sprintf("%s notin (%s,%s)", service.LabelManagedBy, service.ManagedBy, service.ManagedByCilium)
}

// resourceOf returns a kind as the API names it.
func resourceOf(kind Kind) kube.Resource {
	r := kube.Resource{GroupVersion: corev1.SchemeGroupVersion, Plural: strings.ToLower(string(kind)) + "s"}
	switch kind {
	case KindNamespace:
		r.Object, r.List = &corev1.Namespace{}, &corev1.NamespaceList{}
	case KindNode:
		r.Object, r.List = &corev1.Node{}, &corev1.NodeList{}
	case KindPod:
		r.Object, r.List = &corev1.Pod{}, &corev1.PodList{}
	case KindService:
		r.Object, r.List = &corev1.Service{}, &corev1.ServiceList{}
	case KindEndpointSlice:
		r.GroupVersion = discoveryv1.SchemeGroupVersion
		r.Object, r.List = &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}
	}
	return r
}

// shelf is the part of the ledger where one kind stands.
type shelf struct {
	source *Kubernetes
	kind   Kind
}

func (s *shelf) Replace(objects []runtime.Object) {
	now := make([]Object, 0, len(objects))
	for _, o := range objects {
		now = append(now, o.(Object))
	}
	s.source.ledger.replace(s.kind, now)
	s.source.listed(s.kind)
}

func (s *shelf) Put(o runtime.Object) {
	s.source.ledger.put(s.kind, o.(Object))
	s.source.poke()
}

func (s *shelf) Remove(o runtime.Object) {
	s.source.ledger.remove(s.kind, nameOf(o.(Object)))
	s.source.poke()
}
