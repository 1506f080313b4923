package source

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// check refuses what an API server would refuse too and what identities are made
// of: a label that held a ';' would read as two in the text of an identity, and
// be the label of somebody else.
func check(o Object) error {
	labels := o.GetLabels()
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if bad := validation.IsQualifiedName(key); len(bad) > 0 {
			return fmt.Errorf("metadata.labels: key %.100q: %s", key, strings.Join(bad, "; "))
		}
		if bad := validation.IsValidLabelValue(labels[key]); len(bad) > 0 {
			return fmt.Errorf("metadata.labels: %s: value %.100q: %s", key, labels[key], strings.Join(bad, "; "))
		}
	}
	if p, ok := o.(*corev1.Pod); ok && p.Spec.ServiceAccountName != "" {
		if bad := validation.IsDNS1123Subdomain(p.Spec.ServiceAccountName); len(bad) > 0 {
			return fmt.Errorf("spec.serviceAccountName %.100q: %s", p.Spec.ServiceAccountName, strings.Join(bad, "; "))
		}
	}
	return nil
}
