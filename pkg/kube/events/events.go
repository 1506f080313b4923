// Package events tells the people who look at a Service or a ClusterPeer in Kubernetes
// what is wrong with it: as Events of events.k8s.io/v1, one for each thing that is wrong, which
// becomes a series when it goes on or comes again.
package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// The reasons of events.
const (
	// WrongAnnotation: a value is not one that is known, and the default applies.
	WrongAnnotation = "WrongAnnotation"
	// WrongService: a global service that cannot be used, or not be published.
	WrongService = "WrongService"
	// PortsDiffer: no port of another cluster's backends is called like one here.
	PortsDiffer = "PortsDiffer"
	// MirrorRefused: the Kubernetes API refuses the EndpointSlices of remote backends.
	MirrorRefused = "MirrorRefused"
	// MirrorSkipped: remote backends have addresses that Kubernetes takes in no EndpointSlice.
	MirrorSkipped = "MirrorSkipped"
)

const (
	writesPerSecond = 5
	writesAtOnce    = 20
	// maxKept bounds what is remembered; so many wrong Services are one mistake.
	maxKept = 2000
	maxNote = 1000 // bytes; Kubernetes takes 1024
	// An object has some events at once and then one every now and then, of which the
	// last that was said counts: a peer that renames its ports all the time is one that
	// does so, and neither fills etcd nor keeps others' events waiting.
	serviceAtOnce = 5
	serviceEvery  = 2 * time.Minute
	// refresh is when what is still wrong is told again: an API server forgets events
	// after an hour.
	refresh = 40 * time.Minute
	again   = 30 * time.Second
	// pause is how long changes are collected: what an edit puts right at once is no event.
	pause = time.Second

	controller = "causeway.io/clustermesh-apiserver"
	action     = "Follow"
)

// Config says where events go.
type Config struct {
	Client *kube.Client
	// Instance tells replicas apart, by at most 128 characters.
	Instance string
	// Elected reports whether this process writes, and returns a channel that is
	// closed when that changes.
	Elected    func() (bool, <-chan struct{})
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are kept but not exposed
}

// Recorder writes events. It is safe for concurrent use.
type Recorder struct {
	cfg     Config
	writer  *kube.Writer
	written *prometheus.CounterVec
	wake    chan struct{}

	mu     sync.Mutex
	kept   map[key]*entry
	limits map[object]*rate.Limiter // of those that had events of late
	denied string                   // why events are not written; "" when they are
}

// The kinds of objects that events are about.
const (
	kindService = "Service"
	kindPeer    = "ClusterPeer"
)

// object is what events are about.
type object struct {
	kind string
	name service.Name // without a namespace for a ClusterPeer
}

// key is what an object has one event for at a time: a reason, or a condition.
type key struct {
	object
	about string
}

type entry struct {
	uid, reason, note string
	good              bool // nothing is wrong: told once
	due               time.Time
}

// New returns a Recorder that does nothing until Run.
func New(cfg Config) (*Recorder, error) {
	writer, err := cfg.Client.NewWriter(kube.WriterConfig{
		Resource: kube.Resource{GroupVersion: eventsv1.SchemeGroupVersion, Plural: "events", Object: &eventsv1.Event{}, List: &eventsv1.EventList{}},
		Manager:  service.ManagedBy, PerSecond: writesPerSecond, AtOnce: writesAtOnce,
	})
	if err != nil {
		return nil, err
	}
	r := &Recorder{
		cfg: cfg, writer: writer, wake: make(chan struct{}, 1), kept: make(map[key]*entry), limits: make(map[object]*rate.Limiter),
		written: promauto.With(cfg.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_events_writes_total", Help: "Events about Services and ClusterPeers written to the Kubernetes API, by reason and result (done, failed).",
		}, []string{"reason", "result"}),
	}
	return r, nil
}

// Report says what is wrong with a Service for a reason, "" for nothing any more. The
// same said again is no news. It does not block.
func (r *Recorder) Report(name service.Name, uid, reason, note string) {
	r.report(key{object{kindService, name}, reason}, entry{uid: uid, reason: reason, note: note})
}

// ReportPeer says what has become of a condition of a ClusterPeer: what is good is
// told once, what is wrong until the condition is another. It does not block.
func (r *Recorder) ReportPeer(name, uid, condition, reason, note string, good bool) {
	r.report(key{object{kindPeer, service.Name{Name: name}}, condition}, entry{uid: uid, reason: reason, note: note, good: good})
}

func (r *Recorder) report(k key, e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.note = strings.ToValidUTF8(e.note[:min(len(e.note), maxNote)], ""); e.note == "" || e.uid == "" {
		delete(r.kept, k)
		return
	}
	if old := r.kept[k]; old != nil && old.same(e) || old == nil && len(r.kept) >= maxKept {
		return
	}
	r.kept[k] = &e
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// same reports whether two entries say the same.
func (e *entry) same(other entry) bool {
	return e.uid == other.uid && e.reason == other.reason && e.note == other.note && e.good == other.good
}

// Problems returns why no events are written, if that is so.
func (r *Recorder) Problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.denied == "" {
		return nil
	}
	return []string{"events about Services and ClusterPeers: " + r.denied}
}

// Run writes until ctx ends and returns nil then. It may be called once.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		elected, changed := r.cfg.Elected()
		next := time.Hour
		if elected {
			next = r.pass(ctx)
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
		if !retry.Sleep(ctx, pause) {
			return nil
		}
	}
}

// pass writes what is due and returns when the next is. A replica that loses the lead
// meanwhile leaves the rest.
func (r *Recorder) pass(ctx context.Context) time.Duration {
	due, next := r.take(time.Now())
	for k, e := range due {
		if elected, _ := r.cfg.Elected(); !elected {
			r.postpone(due, 0)
			return next
		}
		delete(due, k)
		err := r.write(ctx, k, e)
		switch {
		case err == nil:
			r.spend(k, e)
		case ctx.Err() != nil:
			return next
		default:
			r.postpone(map[key]entry{k: e}, again)
			next = min(next, again)
			if kube.FaultOf(err) != kube.FaultObject {
				r.postpone(due, again)
				return again
			}
		}
	}
	return next
}

// take returns what is due of Services that may have an event, and when the next is.
func (r *Recorder) take(now time.Time) (due map[key]entry, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	due, next = map[key]entry{}, time.Hour
	maps.DeleteFunc(r.limits, func(_ object, l *rate.Limiter) bool { return l.TokensAt(now) >= serviceAtOnce })
	taken := map[object]float64{}
	for k, e := range r.kept {
		if !e.due.After(now) {
			left := serviceAtOnce - taken[k.object]
			if l := r.limits[k.object]; l != nil {
				left = l.TokensAt(now) - taken[k.object]
			}
			if left >= 1 {
				taken[k.object]++
				due[k] = *e
				e.due = now.Add(refresh)
			} else {
				next = min(next, max(time.Second, time.Duration((1-left)*float64(serviceEvery))))
				continue
			}
		}
		next = min(next, e.due.Sub(now))
	}
	return due, next
}

// spend counts an event that was written, and forgets what is to be told once.
func (r *Recorder) spend(k key, e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limits[k.object] == nil {
		r.limits[k.object] = rate.NewLimiter(rate.Every(serviceEvery), serviceAtOnce)
	}
	r.limits[k.object].Allow()
	if now := r.kept[k]; e.good && now != nil && now.same(e) {
		delete(r.kept, k)
	}
}

// postpone has events written later, those that are still to be.
func (r *Recorder) postpone(all map[key]entry, after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Now().Add(after)
	for k, e := range all {
		if now := r.kept[k]; now != nil && now.same(e) {
			now.due = at
		}
	}
}

// write makes an event, or adds to the series of one that is there: its name follows
// from what it says, so that another run finds it too.
func (r *Recorder) write(ctx context.Context, k key, e entry) error {
	event := r.event(k, e)
	_, err := r.writer.Create(ctx, event.Namespace, event)
	if apierrors.IsAlreadyExists(err) {
		err = r.prolong(ctx, event.Namespace, event.Name)
	}
	result := "done"
	if err != nil {
		result = "failed"
	}
	r.written.WithLabelValues(e.reason, result).Inc()
	r.note(err)
	return err
}

func (r *Recorder) event(k key, e entry) *eventsv1.Event {
	regarding := corev1.ObjectReference{APIVersion: "v1", Kind: k.kind, Namespace: k.name.Namespace, Name: k.name.Name, UID: types.UID(e.uid)}
	namespace, kind := k.name.Namespace, corev1.EventTypeWarning
	if k.kind == kindPeer {
		// Kubernetes wants events of objects without a namespace there.
		regarding.APIVersion, namespace = "causeway.io/v1alpha1", metav1.NamespaceDefault
	}
	if e.good {
		kind = corev1.EventTypeNormal
	}
	name := fmt.Sprintf("%s.causeway-%012x", k.name.Name, service.Hash(e.uid+" "+e.reason+" "+e.note)>>16)
	return &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: name},
		EventTime:           metav1.NowMicro(),
		ReportingController: controller, ReportingInstance: r.cfg.Instance[:min(len(r.cfg.Instance), 128)],
		Action: action, Reason: e.reason, Type: kind, Note: e.note, Regarding: regarding,
	}
}

func (r *Recorder) prolong(ctx context.Context, namespace, name string) error {
	found, err := r.writer.Get(ctx, namespace, name)
	if err != nil {
		return err
	}
	series := eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.NowMicro()} // a series begins with two
	if had := found.(*eventsv1.Event).Series; had != nil {
		series.Count = had.Count + 1
	}
	patch, err := json.Marshal(map[string]any{"series": series})
	if err != nil {
		return err
	}
	_, err = r.writer.Merge(ctx, namespace, name, patch)
	return err
}

// note keeps why events are not written. That one is refused, as its namespace ends,
// says nothing about others.
func (r *Recorder) note(err error) {
	if err != nil && kube.FaultOf(err) == kube.FaultObject {
		return
	}
	denied := ""
	if err != nil {
		denied = r.writer.Explain(err, "create, get, patch").Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.denied == denied {
		return
	}
	if r.denied = denied; denied == "" {
		r.cfg.Logger.Info("events are written again")
		return
	}
	r.cfg.Logger.Warn("events are not written, will retry; all else works", "error", denied)
}
