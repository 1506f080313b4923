package source

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
)

// ledger holds what an API server has, and what of it a sink was not told yet: of
// each object the newest state, however often it changed, so that a slow sink costs
// no memory. It is safe for concurrent use.
type ledger struct {
	mu      sync.Mutex
	objects map[Kind]map[objectName]Object
	// touched has, of each object that may have changed since the last flush, what
	// the sink was given; nil for nothing.
	touched map[objectKey]Object
}

func newLedger() *ledger {
	l := &ledger{objects: make(map[Kind]map[objectName]Object), touched: make(map[objectKey]Object)}
	for _, kind := range Kinds() {
		l.objects[kind] = make(map[objectName]Object)
	}
	return l
}

// replace makes these objects all that there are of a kind.
func (l *ledger) replace(kind Kind, now []Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stay := make(map[objectName]bool, len(now))
	for _, o := range now {
		stay[nameOf(o)] = true
		l.set(objectKey{kind, nameOf(o)}, o)
	}
	for name := range l.objects[kind] {
		if !stay[name] {
			l.set(objectKey{kind, name}, nil)
		}
	}
}

func (l *ledger) put(kind Kind, o Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(objectKey{kind, nameOf(o)}, o)
}

func (l *ledger) remove(kind Kind, name objectName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(objectKey{kind, name}, nil)
}

// set notes an object, nil for none. One that differs in nothing that is kept of
// it stays the very same.
func (l *ledger) set(key objectKey, now Object) {
	before := l.objects[key.kind][key.objectName]
	if now != nil {
		now.SetResourceVersion("") // it differs with every heartbeat
	}
	if before == nil && now == nil || before != nil && now != nil && equality.Semantic.DeepEqual(before, now) {
		return
	}
	given, again := l.touched[key]
	if !again {
		given = before
		l.touched[key] = given
	}
	switch {
	case now == nil:
		delete(l.objects[key.kind], key.objectName)
	case given != nil && equality.Semantic.DeepEqual(given, now):
		l.objects[key.kind][key.objectName] = given
	default:
		l.objects[key.kind][key.objectName] = now
	}
}

// flush returns what changed since it was called last, in the order in which a
// sink is given it, and how many objects there are.
func (l *ledger) flush() ([]Change, map[Kind]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var changes []Change
	for key, given := range l.touched {
		now, found := l.objects[key.kind][key.objectName]
		switch {
		case !found && given != nil:
			changes = append(changes, Change{Object: given, Deleted: true})
		case found && now != given:
			changes = append(changes, Change{Object: now})
		}
	}
	l.touched = make(map[objectKey]Object) // the first held everything
	counts := make(map[Kind]int, len(l.objects))
	for kind, objects := range l.objects {
		counts[kind] = len(objects)
	}
	slices.SortFunc(changes, compareChanges)
	return changes, counts
}
