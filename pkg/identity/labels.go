package identity

import (
	"iter"
	"slices"
	"strings"
)

// Labels is a set of labels in the protocol's canonical form: sorted
// `source:key=value;`, one after the other. Being a string it is comparable,
// immutable and a map key. The zero value is the empty set.
type Labels string

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
	parts := make([]string, 0, len(labels))
	for key, value := range labels {
		parts = append(parts, source+":"+key+"="+value+";")
	}
	slices.Sort(parts)
	return Labels(strings.Join(parts, ""))
}

// All yields source, key and value in canonical order; a malformed part is skipped.
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
