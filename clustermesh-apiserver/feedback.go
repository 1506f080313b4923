package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/kube/events"
	"github.com/causeway-mesh/causeway/pkg/kube/mirror"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// portsPause is how long changes are collected before ports are compared: a rename in
// two clusters is done one after the other.
const portsPause = 2 * time.Second

// feedback is what the cluster's own Kubernetes is told: remote backends, and what is
// wrong with Services. Without a Kubernetes API it tells nobody.
type feedback struct {
	engine *merge.Engine
	mirror *mirror.Mirror   // nil without a Kubernetes API, or where none are to be written
	events *events.Recorder // nil without a Kubernetes API

	mu      sync.Mutex
	touched map[service.Name]struct{}
}

func newFeedback(engine *merge.Engine) *feedback {
	f := &feedback{engine: engine, touched: make(map[service.Name]struct{})}
	engine.Watch(f.touch)
	return f
}

// connect says where Kubernetes is; nil for nowhere. Nothing runs yet.
func (f *feedback) connect(client *kube.Client, cfg *config, election *kvstore.Election, peers *peer.Manager, log *slog.Logger, registry prometheus.Registerer) error {
	if client == nil {
		return nil
	}
	elected := func() (bool, <-chan struct{}) {
		term, changed := election.Term()
		return term.Writes(), changed
	}
	recorder, err := events.New(events.Config{Client: client, Instance: cfg.replica(), Elected: elected, Logger: log, Registerer: registry})
	if err != nil {
		return err
	}
	f.events = recorder
	if !cfg.mirrorEndpoints {
		return nil
	}
	written, err := mirror.New(mirror.Config{
		Client: client, Elected: elected, Known: peers.Known, Want: f.want, Names: f.names,
		Refused: func(name service.Name, uid, reason string) {
			if reason != "" {
				reason = "the backends of other clusters are not all in the Kubernetes API, which refuses an EndpointSlice: " + reason
			}
			recorder.Report(name, uid, events.MirrorRefused, reason)
		},
		Skipped: func(name service.Name, uid, reason string) { recorder.Report(name, uid, events.MirrorSkipped, reason) },
		Logger:  log, Registerer: registry,
	})
	f.mirror = written
	return err
}

func (f *feedback) want(name service.Name) (want service.Mirrored, ok bool) {
	f.engine.Read(func(s *merge.State) { want, ok = s.Mirrored(name) })
	return want, ok
}

func (f *feedback) names() (names []service.Name) {
	f.engine.Read(func(s *merge.State) { names = s.MirrorNames() })
	return names
}

// touch is told by the engine which services changed.
func (f *feedback) touch(names []service.Name) {
	if f.events == nil {
		return
	}
	if f.mirror != nil {
		f.mirror.Touch(names)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		f.touched[name] = struct{}{}
	}
}

// wrong is told by who publishes what is wrong with a Service.
func (f *feedback) wrong(name service.Name, uid string, problems []error) {
	if f.events == nil {
		return
	}
	var annotations, others []string
	for _, p := range problems {
		if errors.Is(p, service.ErrAnnotation) {
			annotations = append(annotations, p.Error())
		} else {
			others = append(others, p.Error())
		}
	}
	f.events.Report(name, uid, events.WrongAnnotation, strings.Join(annotations, "; "))
	f.events.Report(name, uid, events.WrongService, strings.Join(others, "; "))
}

// Problems returns what is not told at present, and why.
func (f *feedback) Problems() []string {
	if f.events == nil {
		return nil
	}
	problems := f.events.Problems()
	if f.mirror != nil {
		problems = slices.Concat(f.mirror.Problems(), problems)
	}
	return problems
}

// Standing says how it stands with the remote backends of a service in Kubernetes.
func (f *feedback) Standing(name service.Name) (mirror.Standing, bool) {
	if f.mirror == nil {
		return mirror.Standing{}, false
	}
	return f.mirror.Standing(name)
}

// Run tells until ctx ends: what is wrong at once, what needs the whole state when all
// channels are closed.
func (f *feedback) Run(ctx context.Context, whole ...<-chan struct{}) error {
	if f.events == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.events.Run(ctx) })
	g.Go(func() error {
		for _, c := range whole {
			select {
			case <-ctx.Done():
				return nil
			case <-c:
			}
		}
		g.Go(func() error { return f.comparePorts(ctx) })
		if f.mirror == nil {
			return nil
		}
		return f.mirror.Run(ctx)
	})
	return g.Wait()
}

// comparePorts reports services whose ports meet none of other clusters.
func (f *feedback) comparePorts(ctx context.Context) error {
	for retry.Sleep(ctx, portsPause) {
		f.mu.Lock()
		touched := slices.Collect(maps.Keys(f.touched))
		clear(f.touched)
		f.mu.Unlock()
		for _, name := range touched {
			var unmet merge.Unmet
			note := ""
			f.engine.Read(func(s *merge.State) {
				var is bool
				if unmet, is = s.Unmet(name); is {
					note = portsDiffer(unmet)
				}
			})
			f.events.Report(name, unmet.UID, events.PortsDiffer, note)
		}
	}
	return nil
}

func portsDiffer(u merge.Unmet) string {
	return fmt.Sprintf("no port of the backends in %s is called like one of this Service, so no client here is sent there: here %s, in %s %s; "+
		"give them the same name and protocol in both clusters", strings.Join(u.Clusters, ", "), portNames(u.Here), u.Clusters[0], portNames(u.There))
}

func portNames(ports []service.Port) string {
	if len(ports) == 0 {
		return "none"
	}
	var names []string
	for _, p := range ports {
		names = append(names, fmt.Sprintf("%q %s", p.Name, p.Protocol))
	}
	return strings.Join(names, ", ")
}
