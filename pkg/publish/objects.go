package publish

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// maxServiceValue is the size in bytes beyond which a service is published
// without its backends, which are in its slices as well: etcd refuses values
// over 1.5 MiB.
const maxServiceValue = 1 << 20

// objects publishes nodes, services and slices. sync belongs to one goroutine,
// problems to any.
type objects struct {
	origin origin
	layout wire.Layout
	log    *slog.Logger
	mesh   *mesh
	tell   func(name service.Name, uid string, problems []error) // may be nil
	// intents are how services were published last.
	intents map[service.Name]intent

	mu    sync.Mutex
	wrong map[string]string // object -> what is wrong with it
}

// intent is what of a service decides about its slices.
type intent struct{ global, shared bool }

func newObjects(o origin, l wire.Layout, m *mesh, tell func(service.Name, string, []error), log *slog.Logger) *objects {
	return &objects{origin: o, layout: l, mesh: m, tell: tell, log: log, intents: map[service.Name]intent{}, wrong: map[string]string{}}
}

func (b *objects) problems() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]string, 0, len(b.wrong))
	for object, text := range b.wrong {
		out = append(out, object+": "+text)
	}
	return out
}

// report replaces what is known to be wrong with an object, and logs a change.
func (b *objects) report(object string, problems ...error) {
	texts := make([]string, 0, len(problems))
	for _, p := range problems {
		texts = append(texts, p.Error())
	}
	text := strings.Join(texts, "; ")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wrong[object] == text {
		return
	}
	if text == "" {
		delete(b.wrong, object)
		b.log.Info("object is right again", "object", object)
		return
	}
	b.wrong[object] = text
	b.log.Warn("object is wrong", "object", object, "problem", text)
}

// sync takes what is dirty and returns what to publish. The caller holds the
// index's lock.
func (b *objects) sync(x *index) publication {
	out := newPublication()
	out.update.Nodes = make(map[string]*node.Node, len(x.dirty.nodes))
	for name := range x.dirty.nodes {
		b.node(x, name, out)
	}
	for name := range x.dirty.services {
		b.service(x, name, out)
	}
	for name := range x.dirty.slices {
		b.slice(x, name, out)
	}
	x.dirty.nodes, x.dirty.services, x.dirty.slices = set[string]{}, set[service.Name]{}, set[merge.SliceName]{}
	return out
}

func (b *objects) node(x *index, name string, out publication) {
	key := b.layout.NodeKey(name)
	n := x.nodes[name]
	if n == nil {
		out.update.Nodes[name], out.keys[key] = nil, nil
		b.report("Node " + name)
		return
	}
	translated, ok, conflict := b.mesh.joined(b.origin.node(n), x)
	if !ok {
		return // marked again when its mesh address is known
	}
	value, err := wire.EncodeNode(translated)
	if err != nil {
		b.report("Node "+name, fmt.Errorf("not published: %w", err))
		return
	}
	if conflict != nil {
		b.report("Node "+name, conflict)
	} else {
		b.report("Node " + name)
	}
	out.update.Nodes[name], out.keys[key] = translated, value
}

func (b *objects) service(x *index, name service.Name, out publication) {
	object := "Service " + name.String()
	key := b.layout.ServiceKey(name)
	raw := x.services[name]
	if raw == nil {
		b.decide(x, name, intent{})
		out.update.Services[name], out.keys[key] = nil, nil
		b.report(object)
		if b.tell != nil {
			b.tell(name, "", nil)
		}
		return
	}
	s, problems := b.origin.service(raw, keptAtHome(x.namespaces[name.Namespace]))
	b.decide(x, name, intent{s.Global, s.Shared})
	out.update.Services[name] = s
	out.keys[key] = nil
	if s.Global && s.Shared {
		value, err := b.encodeService(x, s)
		if err != nil {
			problems = append(problems, fmt.Errorf("not published: %w", err))
			delete(out.keys, key) // what was published last stays
		} else {
			out.keys[key] = value
		}
	}
	b.report(object, problems...)
	if b.tell != nil {
		b.tell(name, string(raw.UID), problems)
	}
}

// decide marks a service's slices when it becomes global or shared, or ceases
// to be.
func (b *objects) decide(x *index, name service.Name, now intent) {
	if b.intents[name] == now {
		return
	}
	if now == (intent{}) {
		delete(b.intents, name)
	} else {
		b.intents[name] = now
	}
	for slice := range x.slicesByService[name] {
		x.dirty.slices.add(slice)
	}
}

func (b *objects) encodeService(x *index, s *service.Service) ([]byte, error) {
	published := *s
	published.Backends = backends(b.owned(x, s.Name))
	value, err := wire.EncodeService(&published)
	if len(value) > maxServiceValue {
		published.Backends = nil
		value, err = wire.EncodeService(&published)
	}
	return value, err
}

// owned returns a service's slices in the order of their names.
func (b *objects) owned(x *index, name service.Name) []*service.Slice {
	names := make([]string, 0, len(x.slicesByService[name]))
	for slice := range x.slicesByService[name] {
		names = append(names, slice.Name)
	}
	slices.Sort(names)
	out := make([]*service.Slice, 0, len(names))
	for _, n := range names {
		if s := b.origin.slice(x.slices[merge.SliceName{Namespace: name.Namespace, Name: n}]); s != nil {
			out = append(out, s)
		}
	}
	return out
}

// slice hands over the slices of global services alone, and publishes those of
// shared ones.
func (b *objects) slice(x *index, name merge.SliceName, out publication) {
	key := b.layout.SliceKey(name.Namespace, name.Name)
	object := "EndpointSlice " + name.Namespace + "/" + name.Name
	out.update.Slices[name], out.keys[key] = nil, nil
	raw := x.slices[name]
	if raw == nil {
		b.report(object)
		return
	}
	is := b.intents[sliceOwner(raw)]
	s := b.origin.slice(raw)
	if s == nil || !is.global {
		b.report(object)
		return
	}
	out.update.Slices[name] = s
	if !is.shared {
		b.report(object)
		return
	}
	value, err := wire.EncodeSlice(s)
	if err != nil {
		delete(out.keys, key) // what was published last stays
		b.report(object, fmt.Errorf("not published: %w", err))
		return
	}
	out.keys[key] = value
	b.report(object)
}
