package publish

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// workloads publishes addresses and the identities behind them. take and sync
// belong to one goroutine, problems to any.
type workloads struct {
	origin    origin
	layout    wire.Layout
	filter    identity.Filter
	allocator *allocator[identity.Number, identity.Labels]

	// pending are addresses that wait for an identity; starved those for which
	// there was none.
	pending map[netip.Addr]*workload
	starved map[netip.Addr]*workload
	// holders are the addresses that are published, users how many there are of
	// each identity: in this cluster, and seen by peers.
	holders map[netip.Addr]holder
	users   map[identity.Number]int
	shown   map[identity.Number]int
	// touched are the identities whose users this pass changes.
	touched map[identity.Number]usage
	// settled says that the claims of earlier runs have been held against a
	// whole listing of the source once.
	settled bool

	mu      sync.Mutex
	last    error
	unsaved error // why the file of identities is behind
	// contested are the addresses that more than one Pod claims, and what is
	// wrong with that.
	contested map[netip.Addr][]string
}

// workload is who holds an address.
type workload struct {
	address *endpoint.Address
	labels  identity.Labels
	home    bool // kept at home: peers are not told
}

type holder struct {
	number identity.Number
	shown  bool
}

func newWorkloads(o origin, l wire.Layout, f identity.Filter, a *allocator[identity.Number, identity.Labels]) *workloads {
	return &workloads{
		origin: o, layout: l, filter: f, allocator: a,
		pending: map[netip.Addr]*workload{}, starved: map[netip.Addr]*workload{},
		holders: map[netip.Addr]holder{}, users: map[identity.Number]int{}, shown: map[identity.Number]int{},
		touched: map[identity.Number]usage{}, contested: map[netip.Addr][]string{},
	}
}

// err says why addresses lack an identity, nil when none does.
func (w *workloads) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		return nil
	}
	return fmt.Errorf("identities: %w", w.last)
}

func (w *workloads) problems() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	if w.unsaved != nil {
		out = append(out, "identities: "+w.unsaved.Error())
	}
	for _, texts := range w.contested {
		out = append(out, texts...)
	}
	return out
}

// contest keeps which Pods claim an address that another holds.
func (w *workloads) contest(ip netip.Addr, holder *corev1.Pod, others []*corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.contested, ip)
	for _, p := range others {
		w.contested[ip] = append(w.contested[ip], fmt.Sprintf(
			"Pod %s/%s: its address %s is held by Pod %s/%s, which was there first; it is this Pod's when that one has gone",
			p.Namespace, p.Name, ip, holder.Namespace, holder.Name))
	}
}

// take returns who holds the dirty addresses now, nil for nobody. The caller
// holds the index's lock.
func (w *workloads) take(x *index) map[netip.Addr]*workload {
	found := make(map[netip.Addr]*workload, len(x.dirty.ips))
	for ip := range x.dirty.ips {
		p, others := x.holder(ip)
		w.contest(ip, p, others)
		if p == nil {
			found[ip] = nil
			continue
		}
		ns := x.namespaces[p.Namespace]
		wl := identity.Workload{
			Cluster: w.origin.name, Namespace: p.Namespace, ServiceAccount: serviceAccount(p), Labels: p.Labels,
		}
		if ns != nil {
			wl.NamespaceLabels = ns.Labels
		}
		found[ip] = &workload{
			address: w.origin.address(p, ip, x.hosts(p.Spec.NodeName, w.origin)),
			labels:  w.filter.Labels(wl),
			home:    keptAtHome(ns),
		}
	}
	x.dirty.ips = set[netip.Addr]{}
	return found
}

// sync returns what to publish for found and for what an earlier call left
// open. An error means that some still wait; they are kept. listed says that
// the source has listed everything, so that an identity without a user is free.
func (w *workloads) sync(ctx context.Context, found map[netip.Addr]*workload, listed bool) (publication, error) {
	out := newPublication()
	out.update.Addresses = map[netip.Prefix]*endpoint.Address{}
	out.update.Identities = map[identity.Number]*identity.Identity{}
	for ip, wl := range found {
		delete(w.pending, ip)
		delete(w.starved, ip)
		if wl == nil {
			w.remove(ip, out)
			continue
		}
		w.pending[ip] = wl
	}
	err := w.assign(ctx, out)
	w.identities(out, listed && len(w.pending) == 0)
	w.mu.Lock()
	w.last = err
	w.mu.Unlock()
	if errors.Is(err, errRangeFull) {
		err = nil // waiting helps nothing: sweep tries again
	}
	return out, err
}

// assign gives every pending address its identity.
func (w *workloads) assign(ctx context.Context, out publication) error {
	began, err := w.allocator.turn(ctx)
	if err != nil {
		return err
	}
	if began {
		w.settled = false // what another replica allocated may have no user any more
		for n := range w.users {
			w.allocator.revive(n) // nor did it know whom we gave what it had freed
		}
	}
	if len(w.pending) == 0 {
		if len(w.starved) > 0 {
			return errRangeFull
		}
		return nil
	}
	wanted := map[identity.Labels]struct{}{}
	for _, wl := range w.pending {
		wanted[wl.labels] = struct{}{}
	}
	list := make([]identity.Labels, 0, len(wanted))
	for labels := range wanted {
		list = append(list, labels)
	}
	numbers, err := w.allocator.assign(ctx, list)
	for ip, wl := range w.pending {
		n, ok := numbers[wl.labels]
		switch {
		case !ok && !errors.Is(err, errRangeFull):
			continue
		case !ok:
			n = identity.Unmanaged
			w.starved[ip] = wl
		}
		w.place(ip, wl, n, out)
		delete(w.pending, ip)
	}
	if err == nil && len(w.starved) > 0 {
		return errRangeFull
	}
	return err
}

// place publishes one address.
func (w *workloads) place(ip netip.Addr, wl *workload, n identity.Number, out publication) {
	w.unuse(ip)
	address := *wl.address
	address.Identity = n
	out.update.Addresses[address.Prefix] = &address
	key := w.layout.AddressKey(address.Prefix)
	out.keys[key] = nil
	h := holder{number: n}
	if !wl.home {
		if value, err := wire.EncodeAddress(&address); err == nil { // an address that Kubernetes gave always encodes
			out.keys[key] = value
			h.shown = true
		}
	}
	w.holders[ip] = h
	w.touch(n)
	w.users[n]++
	if h.shown {
		w.shown[n]++
	}
}

func (w *workloads) remove(ip netip.Addr, out publication) {
	if _, ok := w.holders[ip]; !ok {
		return
	}
	w.unuse(ip)
	delete(w.holders, ip)
	prefix := netip.PrefixFrom(ip, ip.BitLen())
	out.update.Addresses[prefix] = nil
	out.keys[w.layout.AddressKey(prefix)] = nil
}

func (w *workloads) unuse(ip netip.Addr) {
	h, ok := w.holders[ip]
	if !ok {
		return
	}
	w.touch(h.number)
	count(w.users, h.number, -1)
	if h.shown {
		count(w.shown, h.number, -1)
	}
}

func count(m map[identity.Number]int, n identity.Number, by int) {
	if m[n] += by; m[n] == 0 {
		delete(m, n)
	}
}

// usage is whether an identity has users: in this cluster, and seen by peers.
type usage struct{ used, shown bool }

func (w *workloads) usage(n identity.Number) usage {
	return usage{used: w.users[n] > 0, shown: w.shown[n] > 0}
}

// touch keeps how an identity was used before this pass.
func (w *workloads) touch(n identity.Number) {
	if _, ok := w.touched[n]; !ok {
		w.touched[n] = w.usage(n)
	}
}

// identities publishes those that got their first user and withdraws those that
// lost their last. Reserved ones are everybody's and never published. With
// complete, claims that nobody uses go to rest.
func (w *workloads) identities(out publication, complete bool) {
	for n := range w.allocator.moved {
		w.touch(n)
	}
	for n, before := range w.touched {
		now := w.usage(n)
		_, moved := w.allocator.moved[n]
		if n.Reserved() || before == now && !moved {
			continue
		}
		labels := w.allocator.claims[n].Holder
		if before.used != now.used || moved {
			out.update.Identities[n] = nil
			if now.used {
				out.update.Identities[n] = &identity.Identity{Number: n, Labels: labels}
			}
		}
		if before.shown != now.shown || moved {
			key := w.layout.IdentityKey(n)
			out.keys[key] = nil
			if now.shown {
				if value, err := wire.EncodeIdentity(&identity.Identity{Number: n, Labels: labels}); err == nil { // canonical by construction
					out.keys[key] = value
				}
			}
		}
		if w.settled && !now.used {
			w.allocator.free(n)
		}
	}
	clear(w.touched)
	if w.settled || !complete {
		return
	}
	w.settled = true
	for n := range w.allocator.claims {
		if !w.usage(n).used {
			w.allocator.free(n)
		}
	}
}

// sweep ends the rest of numbers whose time is over, and lets those that got
// none try again.
func (w *workloads) sweep() {
	w.allocator.sweep()
	for ip, wl := range w.starved {
		w.pending[ip] = wl
	}
	clear(w.starved)
}

// save brings the file of identities up to date.
func (w *workloads) save() {
	err := w.allocator.save()
	w.mu.Lock()
	defer w.mu.Unlock()
	if (err == nil) != (w.unsaved == nil) {
		if err != nil {
			w.allocator.log.Warn("identities are not saved outside etcd, will retry", "error", err)
		} else {
			w.allocator.log.Info("identities are saved outside etcd again")
		}
	}
	w.unsaved = err
}

// end stops what the allocator runs.
func (w *workloads) end() {
	w.allocator.stop()
	w.save()
}

// renumbered reports, once, whether addresses may have another identity than
// they were given: another replica, or another state of etcd, says so.
func (w *workloads) renumbered() bool {
	moved := len(w.allocator.moved) > 0
	clear(w.allocator.moved)
	return moved
}
