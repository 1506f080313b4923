package identity

import (
	"fmt"
	"slices"
	"strings"
)

// Workload is what an identity is derived from.
type Workload struct {
	Cluster         string
	Namespace       string
	ServiceAccount  string
	Labels          map[string]string
	NamespaceLabels map[string]string
}

// DefaultExcluded are the label keys that do not count for an identity because
// they change with every rollout, or differ from pod to pod of one workload.
// An entry that ends in '*' stands for all keys with that prefix.
func DefaultExcluded() []string {
	return []string{
		"pod-template-hash",
		"pod-template-generation",
		"controller-revision-hash",
		"statefulset.kubernetes.io/pod-name",
		"apps.kubernetes.io/pod-index",
		"controller-uid",
		"job-name",
		"batch.kubernetes.io/*",
	}
}

// Filter decides which of a pod's labels count. The zero value lets all count.
// It is immutable and safe for concurrent use.
type Filter struct {
	keys     map[string]struct{}
	prefixes []string
}

// NewFilter returns a Filter that leaves out the given keys; an entry that ends
// in '*' is a prefix. An empty entry, a bare '*', or a '*' elsewhere is an error.
func NewFilter(excluded []string) (Filter, error) {
	f := Filter{keys: make(map[string]struct{}, len(excluded))}
	for _, entry := range excluded {
		prefix, isPrefix := strings.CutSuffix(entry, "*")
		switch {
		case prefix == "" || strings.Contains(prefix, "*"):
			return Filter{}, fmt.Errorf("excluded label %q: give a label key, or a prefix that ends in '*'", entry)
		case isPrefix:
			f.prefixes = append(f.prefixes, prefix)
		default:
			f.keys[entry] = struct{}{}
		}
	}
	return f, nil
}

func (f Filter) excludes(key string) bool {
	if _, ok := f.keys[key]; ok {
		return true
	}
	return slices.ContainsFunc(f.prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// Labels returns the labels that make up the workload's identity: the pod's own
// less the excluded ones, its namespace's, and where it lives. The latter can
// not be set by a pod's own labels.
func (f Filter) Labels(w Workload) Labels {
	set := make(map[string]string, len(w.Labels)+len(w.NamespaceLabels)+3)
	for key, value := range w.Labels {
		if !f.excludes(key) && !reservedKey(key) {
			set[key] = value
		}
	}
	for key, value := range w.NamespaceLabels {
		set[LabelNamespacePrefix+key] = value
	}
	set[LabelNamespace] = w.Namespace
	set[LabelServiceAccount] = w.ServiceAccount
	set[LabelCluster] = w.Cluster
	return NewLabels(SourceKubernetes, set)
}

// reservedKey reports whether only the mesh itself may set a label: a pod that
// could would choose the namespace or the cluster that policies see.
func reservedKey(key string) bool {
	return key == LabelNamespace || strings.HasPrefix(key, "io.cilium.k8s.")
}
