package identity

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

// Labels is a set of labels in the protocol's canonical form:
// `source:key=value;` one after the other, sorted by key and then by source.
// Being a string it is comparable, immutable and a map key. The zero value is
// the empty set.
type Labels string

// ErrLabels is returned for text that is no set of labels; it is wrapped with
// the part that is wrong.
var ErrLabels = errors.New("a label is source:key=value; and stands there once")

// The labels that say where a workload lives, all of source k8s.
const (
	LabelCluster         = "io.cilium.k8s.policy.cluster"
	LabelServiceAccount  = "io.cilium.k8s.policy.serviceaccount"
	LabelNamespace       = "io.kubernetes.pod.namespace"
	LabelNamespacePrefix = "io.cilium.k8s.namespace.labels."
	// SourceKubernetes is the source of every label that came from Kubernetes.
	SourceKubernetes = "k8s"
)

// NewLabels returns the canonical form of labels of one source. A key or value
// must not contain ';', a key no '='; Kubernetes allows neither.
func NewLabels(source string, labels map[string]string) Labels {
	parsed := make([]label, 0, len(labels))
	for key, value := range labels {
		parsed = append(parsed, label{source: source, key: key, value: value})
	}
	return join(parsed)
}

// ParseLabels returns the canonical form of labels that may stand in any
// order. An error wraps ErrLabels.
func ParseLabels(text string) (Labels, error) {
	var parsed []label
	for rest := text; rest != ""; {
		part, after, ok := strings.Cut(rest, ";")
		prefix, value, hasValue := strings.Cut(part, "=")
		source, key, hasSource := strings.Cut(prefix, ":")
		if !ok || !hasValue || !hasSource || source == "" || key == "" || !utf8.ValidString(part) {
			return "", fmt.Errorf("label %.100q: %w", part, ErrLabels)
		}
		parsed = append(parsed, label{source: source, key: key, value: value})
		rest = after
	}
	labels := join(parsed)
	for i := 1; i < len(parsed); i++ {
		if parsed[i-1].source == parsed[i].source && parsed[i-1].key == parsed[i].key {
			return "", fmt.Errorf("label %.100q: %w", parsed[i].source+":"+parsed[i].key, ErrLabels)
		}
	}
	return labels, nil
}

type label struct{ source, key, value string }

// join sorts the labels in place and writes them down.
func join(labels []label) Labels {
	slices.SortFunc(labels, func(a, b label) int {
		return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.source, b.source))
	})
	var b strings.Builder
	for _, l := range labels {
		b.WriteString(l.source + ":" + l.key + "=" + l.value + ";")
	}
	return Labels(b.String())
}

// All yields "source:key" and value in canonical order; a malformed part is
// skipped.
func (l Labels) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for part := range strings.SplitSeq(string(l), ";") {
			key, value, ok := strings.Cut(part, "=")
			if ok && !yield(key, value) {
				return
			}
		}
	}
}

// Get returns the value of a label, its key with the source in front
// ("k8s:app"), and whether the set has it.
func (l Labels) Get(sourceAndKey string) (string, bool) {
	for key, value := range l.All() {
		if key == sourceAndKey {
			return value, true
		}
	}
	return "", false
}

// Cluster returns the cluster that the labels name, "" if they name none.
func (l Labels) Cluster() string {
	name, _ := l.Get(SourceKubernetes + ":" + LabelCluster)
	return name
}
