package source

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// deriver makes the EndpointSlices of Services that have a selector and no slice
// of their own, as Kubernetes' controller would, from Pods. It looks again only at
// Services that a change concerns. It is owned by one goroutine.
type deriver struct {
	services map[objectName]*corev1.Service // with a selector
	pods     map[objectName]*corev1.Pod
	zones    map[string]string  // by node
	own      map[objectName]int // slices in the source, by service
	// selecting and labelled find Services and Pods by a label: a Service under
	// one label of its selector, a Pod under all of its labels.
	selecting, labelled labelIndex
	derived             map[objectName]map[string]*discoveryv1.EndpointSlice
	dirty               map[objectName]bool
}

func newDeriver() *deriver {
	return &deriver{
		services:  make(map[objectName]*corev1.Service),
		pods:      make(map[objectName]*corev1.Pod),
		zones:     make(map[string]string),
		own:       make(map[objectName]int),
		selecting: make(labelIndex),
		labelled:  make(labelIndex),
		derived:   make(map[objectName]map[string]*discoveryv1.EndpointSlice),
		dirty:     make(map[objectName]bool),
	}
}

// label is a label in a namespace, labelIndex the names of the objects under it.
type (
	label      struct{ namespace, key, value string }
	labelIndex map[label]map[string]bool
)

func (x labelIndex) add(at label, name string) {
	if x[at] == nil {
		x[at] = make(map[string]bool)
	}
	x[at][name] = true
}

func (x labelIndex) remove(at label, name string) {
	delete(x[at], name)
	if len(x[at]) == 0 {
		delete(x, at)
	}
}

// update tells of an object that changed; before or now is nil where there was or is none.
func (d *deriver) update(before, now Object) {
	if before != nil {
		d.forget(before)
	}
	if now != nil {
		d.learn(now)
	}
}

func (d *deriver) learn(o Object) {
	name := nameOf(o)
	switch o := o.(type) {
	case *corev1.Node:
		d.setZone(o.Name, o.Labels[corev1.LabelTopologyZone])
	case *corev1.Pod:
		d.pods[name] = o
		for k, v := range o.Labels {
			d.labelled.add(label{name.namespace, k, v}, name.name)
		}
		d.touchSelecting(o)
	case *corev1.Service:
		if len(o.Spec.Selector) > 0 && o.Spec.Type != corev1.ServiceTypeExternalName {
			d.services[name] = o
			d.selecting.add(anchor(o), name.name)
		}
		d.dirty[name] = true
	case *discoveryv1.EndpointSlice:
		if isMirrored(o) {
			return // of other clusters' pods: the Service still needs its own
		}
		service := serviceOf(o)
		d.own[service]++
		d.dirty[service] = true
	}
}

func (d *deriver) forget(o Object) {
	name := nameOf(o)
	switch o := o.(type) {
	case *corev1.Node:
		d.setZone(o.Name, "")
	case *corev1.Pod:
		d.touchSelecting(o)
		delete(d.pods, name)
		for k, v := range o.Labels {
			d.labelled.remove(label{name.namespace, k, v}, name.name)
		}
	case *corev1.Service:
		if _, ok := d.services[name]; ok {
			delete(d.services, name)
			d.selecting.remove(anchor(o), name.name)
		}
		d.dirty[name] = true
	case *discoveryv1.EndpointSlice:
		if isMirrored(o) {
			return
		}
		service := serviceOf(o)
		if d.own[service]--; d.own[service] == 0 {
			delete(d.own, service)
		}
		d.dirty[service] = true
	}
}

// setZone looks at everything derived again when a node moves: that is rare.
func (d *deriver) setZone(node, zone string) {
	if d.zones[node] == zone {
		return
	}
	if zone == "" {
		delete(d.zones, node)
	} else {
		d.zones[node] = zone
	}
	for service := range d.derived {
		d.dirty[service] = true
	}
}

// touchSelecting marks the Services that select a Pod.
func (d *deriver) touchSelecting(p *corev1.Pod) {
	for k, v := range p.Labels {
		for name := range d.selecting[label{p.Namespace, k, v}] {
			service := objectName{p.Namespace, name}
			if selects(d.services[service].Spec.Selector, p.Labels) {
				d.dirty[service] = true
			}
		}
	}
}

// anchor is the label of its selector under which a Service is found.
func anchor(s *corev1.Service) label {
	key := slices.Min(slices.Collect(maps.Keys(s.Spec.Selector)))
	return label{s.Namespace, key, s.Spec.Selector[key]}
}

func serviceOf(s *discoveryv1.EndpointSlice) objectName {
	return objectName{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// flush derives the slices of the Services touched since the last flush and
// returns what changed, in no order.
func (d *deriver) flush() []Change {
	var changes []Change
	for service := range d.dirty {
		before, now := d.derived[service], d.derive(service)
		for name, s := range before {
			if now[name] == nil {
				changes = append(changes, Change{Object: s, Deleted: true})
			}
		}
		for name, s := range now {
			if old := before[name]; old != nil && equality.Semantic.DeepEqual(old, s) {
				now[name] = old
				continue
			}
			changes = append(changes, Change{Object: s})
		}
		if len(now) == 0 {
			delete(d.derived, service)
		} else {
			d.derived[service] = now
		}
	}
	clear(d.dirty)
	return changes
}

// derive returns the slices of a Service by name; none if it has its own, has no
// selector or is gone.
func (d *deriver) derive(name objectName) map[string]*discoveryv1.EndpointSlice {
	service := d.services[name]
	if service == nil || d.own[name] > 0 {
		return nil
	}
	pods := d.selected(service)
	derived := make(map[string]*discoveryv1.EndpointSlice)
	for _, family := range familiesOf(service) {
		for _, s := range deriveSlices(service, family, pods, d.zones) {
			derived[s.Name] = s
		}
	}
	return derived
}

// selected returns the Pods that a Service selects and that may be endpoints,
// sorted by name.
func (d *deriver) selected(s *corev1.Service) []*corev1.Pod {
	var fewest map[string]bool
	for k, v := range s.Spec.Selector {
		names := d.labelled[label{s.Namespace, k, v}]
		if len(names) == 0 {
			return nil
		}
		if fewest == nil || len(names) < len(fewest) {
			fewest = names
		}
	}
	var pods []*corev1.Pod
	for name := range fewest {
		p := d.pods[objectName{s.Namespace, name}]
		if selects(s.Spec.Selector, p.Labels) && mayServe(p) {
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods
}
