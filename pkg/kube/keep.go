package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// keepTimeout is how long one request for a Kept may take.
const keepTimeout = 30 * time.Second

// keeper is the field manager of what is kept: nobody else's fields are touched.
const keeper = "causeway"

// Kept is a Secret or a ConfigMap in which one value of ours is kept.
type Kept struct {
	// Secret is for what not everybody may read; a ConfigMap otherwise.
	Secret          bool
	Namespace, Name string
	// Key is that of the value.
	Key string
}

// ParseKept reads namespace/name.
func ParseKept(text string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%q is not namespace/name", text)
	}
	return namespace, name, nil
}

// String names it for a person.
func (k Kept) String() string {
	kind := "ConfigMap"
	if k.Secret {
		kind = "Secret"
	}
	return fmt.Sprintf("%s %s/%s", kind, k.Namespace, k.Name)
}

func (k Kept) plural() string {
	if k.Secret {
		return "secrets"
	}
	return "configmaps"
}

// Keep makes the object hold the value under its key, and makes the object where
// there is none. What else is in it stays.
func (c *Client) Keep(ctx context.Context, k Kept, value []byte) error {
	text, err := json.Marshal(k.object(value))
	if err != nil {
		return fmt.Errorf("encode %s: %w", k, err)
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	// A PATCH of a kind that is there is answered by the object, which nobody needs.
	err = c.groups[corev1.SchemeGroupVersion].Patch(types.ApplyPatchType).Namespace(k.Namespace).Resource(k.plural()).Name(k.Name).
		Param("fieldManager", keeper).Param("force", "true").Body(text).Do(ctx).Error()
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w; give it a Role in namespace %s with the rule apiGroups: [\"\"], resources: [%s], resourceNames: [%s], verbs: [create, patch]",
			statusOf(err), k.Namespace, k.plural(), k.Name)
	}
	return fmt.Errorf("%s: %w", k, c.describe(err, "write", &Resource{GroupVersion: corev1.SchemeGroupVersion, Plural: k.plural()}))
}

// object is what is applied: the fields that are ours, and no other.
func (k Kept) object(value []byte) any {
	meta := metav1.ObjectMeta{Name: k.Name, Namespace: k.Namespace, Labels: map[string]string{
		"app.kubernetes.io/name": "clustermesh-apiserver", "app.kubernetes.io/part-of": "causeway",
	}}
	if k.Secret {
		return corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta, Data: map[string][]byte{k.Key: value}}
	}
	return corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta, Data: map[string]string{k.Key: string(value)}}
}
