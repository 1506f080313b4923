package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// lookEvery is how often the maps are looked at: more often than matters in a
// figure, and too rarely to take time from what is measured.
const lookEvery = 2 * time.Millisecond

// awaitMaps returns once every frontend of the world has its backends.
func (w *world) awaitMaps(ctx context.Context) error {
	pending := w.frontends()
	err := w.await(ctx, pending, func(f netip.AddrPort) (bool, error) {
		n, err := w.maps.backends(f)
		return n == w.spec.Backends, err
	})
	if err != nil {
		return err
	}
	services, backends, err := w.maps.count()
	if err == nil && (services != w.spec.TotalServices() || backends != w.spec.TotalBackends()) {
		err = fmt.Errorf("the maps have %d services with %d backends instead of %d with %d",
			services, backends, w.spec.TotalServices(), w.spec.TotalBackends())
	}
	return err
}

func (w *world) frontends() []netip.AddrPort {
	frontends := make([]netip.AddrPort, 0, w.spec.TotalServices())
	for _, r := range w.remotes {
		for i := range r.Services {
			frontends = append(frontends, r.Frontend(i))
		}
	}
	return frontends
}

// await returns once done says yes of each frontend. It asks for one after the
// other, and again only for the one that was not done: so it costs little,
// however many there are.
func (w *world) await(ctx context.Context, frontends []netip.AddrPort, done func(netip.AddrPort) (bool, error)) error {
	for i, f := range frontends {
		for {
			ok, err := done(f)
			if err != nil {
				return err
			}
			if ok {
				break
			}
			if err := w.pause(ctx); err != nil {
				return fmt.Errorf("wait for %v in the maps, the %d. of %d: %w", f, i+1, len(frontends), err)
			}
		}
	}
	return nil
}

// pause waits between two looks; the end of a process ends the waiting.
func (w *world) pause(ctx context.Context) error {
	select {
	case <-time.After(lookEvery):
		return nil
	case <-w.api.Done():
		return fmt.Errorf("the API server ended; its last words:\n%s", w.api.Tail())
	case <-w.agent.Done():
		return fmt.Errorf("the agent ended; its last words:\n%s", w.agent.Tail())
	case <-ctx.Done():
		return fmt.Errorf("%w; the API server's last words:\n%s", context.Cause(ctx), w.api.Tail())
	}
}

// awaitCache returns once all remote clusters stand whole in the own etcd.
func (w *world) awaitCache(ctx context.Context) error { return w.awaitCached(ctx, w.spec.Clusters) }

// awaitCached does so for a number of clusters, whichever they are.
func (w *world) awaitCached(ctx context.Context, clusters int) error {
	for {
		n, err := w.ownStore.cached(ctx)
		if err != nil || n == clusters {
			return err
		}
		for range 10 { // a look is dearer than one into a map
			if err := w.pause(ctx); err != nil {
				return fmt.Errorf("wait for the cache, %d of %d clusters are whole: %w", n, clusters, err)
			}
		}
	}
}
