// Package source yields the objects that a cluster is made of: namespaces,
// nodes, pods, services and endpoint slices. Where they come from, a directory
// of manifests here, makes no difference to who receives them.
package source

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is exactly one of *corev1.Namespace, *corev1.Node, *corev1.Pod,
// *corev1.Service and *discoveryv1.EndpointSlice, as an API server would give
// it, but with no more than the fields that a mesh looks at (of a Pod: where it
// runs, its addresses, ports and conditions; of a Service everything). Its TypeMeta is
// empty: switch on the type or ask KindOf. An Object is shared and never changed
// once it has been given away.
type Object interface {
	metav1.Object
	runtime.Object
}

// Change is one object that is new, differs from what was given before, or is gone.
type Change struct {
	Object Object
	// Deleted says that the object is gone; Object is then what was last given.
	Deleted bool
}

// Sink receives a source's objects. Its methods are called by one goroutine,
// one after the other; an error ends the source's Run.
type Sink interface {
	// Apply is given what one look at the source changed: no object twice,
	// deletions first. The slice belongs to the receiver.
	Apply(ctx context.Context, changes []Change) error
	// Complete says that everything there is has been given: what is not known
	// now is gone. It is called at most once in a Run, and never while there is
	// a part of the source whose content is not known.
	Complete(ctx context.Context) error
}

// Kind names the type of an Object.
type Kind string

// The kinds, in the order in which objects are given; deletions come in reverse order.
const (
	KindNamespace     Kind = "Namespace"
	KindNode          Kind = "Node"
	KindPod           Kind = "Pod"
	KindService       Kind = "Service"
	KindEndpointSlice Kind = "EndpointSlice"
)

// Kinds returns all kinds in their order.
func Kinds() []Kind {
	return []Kind{KindNamespace, KindNode, KindPod, KindService, KindEndpointSlice}
}

// KindOf returns the kind of an object, "" for one that is no Object of a source.
func KindOf(o Object) Kind {
	switch o.(type) {
	case *corev1.Namespace:
		return KindNamespace
	case *corev1.Node:
		return KindNode
	case *corev1.Pod:
		return KindPod
	case *corev1.Service:
		return KindService
	case *discoveryv1.EndpointSlice:
		return KindEndpointSlice
	}
	return ""
}
