package service

import (
	"errors"
	"fmt"
	"strings"
)

// Affinity says which clusters' backends a service prefers.
type Affinity string

// The affinities: all alike; the own cluster's while one is healthy; the
// others' while one is healthy.
const (
	AffinityNone   Affinity = "none"
	AffinityLocal  Affinity = "local"
	AffinityRemote Affinity = "remote"
)

// The annotations, each in our words and in the protocol's; ours win where
// both stand.
const (
	AnnotationGlobal         = "causeway.io/global"
	AnnotationGlobalCilium   = "service.cilium.io/global"
	AnnotationShared         = "causeway.io/shared"
	AnnotationSharedCilium   = "service.cilium.io/shared"
	AnnotationAffinity       = "causeway.io/affinity"
	AnnotationAffinityCilium = "service.cilium.io/affinity"
	// AnnotationNamespaceGlobal on a Namespace, set to "false", keeps all that
	// is in it at home.
	AnnotationNamespaceGlobal = "clustermesh.cilium.io/global"
)

// ErrAnnotation is what is wrong with an annotation's value.
var ErrAnnotation = errors.New("annotation")

// Intent is what the annotations of a Service ask for.
type Intent struct {
	Global   bool
	Shared   bool
	Affinity Affinity
}

// ParseAnnotations returns what a Service's annotations ask for. A wrong value
// never changes traffic: the default applies (not global; shared where global;
// no affinity) and a problem names annotation, value and what is allowed.
func ParseAnnotations(annotations map[string]string) (Intent, []error) {
	var problems []error
	boolean := func(ours, theirs string, def bool) bool {
		value, problem := parseBool(annotations, ours, theirs, def)
		if problem != nil {
			problems = append(problems, problem)
		}
		return value
	}
	intent := Intent{Affinity: AffinityNone}
	intent.Global = boolean(AnnotationGlobal, AnnotationGlobalCilium, false)
	intent.Shared = boolean(AnnotationShared, AnnotationSharedCilium, intent.Global) && intent.Global
	if key, value, ok := lookup(annotations, AnnotationAffinity, AnnotationAffinityCilium); ok {
		switch a := Affinity(strings.ToLower(strings.TrimSpace(value))); a {
		case AffinityNone, AffinityLocal, AffinityRemote:
			intent.Affinity = a
		default:
			problems = append(problems, fmt.Errorf(`%w %s: %q is none of "none", "local", "remote"; taken as "none"`, ErrAnnotation, key, value))
		}
	}
	return intent, problems
}

func parseBool(annotations map[string]string, ours, theirs string, def bool) (bool, error) {
	key, value, ok := lookup(annotations, ours, theirs)
	if !ok {
		return def, nil
	}
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return def, fmt.Errorf(`%w %s: %q is neither "true" nor "false"; taken as %q`, ErrAnnotation, key, value, fmt.Sprint(def))
}

func lookup(annotations map[string]string, keys ...string) (key, value string, ok bool) {
	for _, key := range keys {
		if value, ok := annotations[key]; ok {
			return key, value, true
		}
	}
	return "", "", false
}
