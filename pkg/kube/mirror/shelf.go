package mirror

import (
	"maps"
	"sync"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// objectName is the namespace and name of an EndpointSlice.
type objectName struct{ namespace, name string }

// shelf holds the objects of ours that stand in the API, by service: as the API
// server told last, or answered to a write, whichever is newer. It is safe for
// concurrent use.
type shelf struct {
	touch  func([]service.Name)
	listed chan struct{} // closed when all of them are known

	mu      sync.Mutex
	whole   bool
	owners  map[objectName]service.Name
	objects map[service.Name]map[string]*discoveryv1.EndpointSlice
}

func newShelf(touch func([]service.Name)) *shelf {
	return &shelf{
		touch: touch, listed: make(chan struct{}),
		owners: make(map[objectName]service.Name), objects: make(map[service.Name]map[string]*discoveryv1.EndpointSlice),
	}
}

// Replace is given all that there are: also what an earlier run left.
func (s *shelf) Replace(list []runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	touched := make(map[service.Name]bool)
	for name := range s.objects {
		touched[name] = true
	}
	clear(s.owners)
	clear(s.objects)
	for _, o := range list {
		touched[s.put(o.(*discoveryv1.EndpointSlice))] = true
	}
	for name := range touched {
		s.touch([]service.Name{name})
	}
	if !s.whole {
		s.whole = true
		close(s.listed)
	}
}

// Put is told of a change, by others or by us.
func (s *shelf) Put(o runtime.Object) { s.note(o.(*discoveryv1.EndpointSlice)) }

// Remove is told what is gone; one that was made anew meanwhile is not.
func (s *shelf) Remove(o runtime.Object) {
	gone := o.(*discoveryv1.EndpointSlice)
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner, have := s.find(gone); have != nil && have.UID == gone.UID {
		s.drop(objectName{gone.Namespace, gone.Name}, owner)
		s.touch([]service.Name{owner})
	}
}

// note takes in an object unless what is known of it is as new.
func (s *shelf) note(o *discoveryv1.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, have := s.find(o)
	if have != nil && have.UID == o.UID && (have.ResourceVersion == o.ResourceVersion || kube.Older(o.ResourceVersion, have.ResourceVersion)) {
		return
	}
	now := s.put(o)
	s.touch([]service.Name{now})
	if have != nil && before != now {
		s.touch([]service.Name{before})
	}
}

func (s *shelf) put(o *discoveryv1.EndpointSlice) service.Name {
	key := objectName{o.Namespace, o.Name}
	owner := service.Name{Namespace: o.Namespace, Name: o.Labels[service.LabelServiceName]}
	if before, ok := s.owners[key]; ok && before != owner {
		s.drop(key, before)
	}
	if s.objects[owner] == nil {
		s.objects[owner] = make(map[string]*discoveryv1.EndpointSlice)
	}
	s.owners[key] = owner
	s.objects[owner][o.Name] = o
	return owner
}

func (s *shelf) drop(key objectName, owner service.Name) {
	delete(s.owners, key)
	delete(s.objects[owner], key.name)
	if len(s.objects[owner]) == 0 {
		delete(s.objects, owner)
	}
}

func (s *shelf) find(o *discoveryv1.EndpointSlice) (service.Name, *discoveryv1.EndpointSlice) {
	owner, ok := s.owners[objectName{o.Namespace, o.Name}]
	if !ok {
		return service.Name{}, nil
	}
	return owner, s.objects[owner][o.Name]
}

// of returns the objects of a service, in a map that is the caller's.
func (s *shelf) of(name service.Name) map[string]*discoveryv1.EndpointSlice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.objects[name])
}

// has reports whether an object is known to be ours, of whichever service.
func (s *shelf) has(namespace, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.owners[objectName{namespace, name}]
	return ok
}

func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.owners)
}
