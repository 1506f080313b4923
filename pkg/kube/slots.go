package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrSlotChanged says that a slot was not written, since it is another one by now
// than the one that was read.
var ErrSlotChanged = errors.New("somebody else has written it meanwhile")

// slotMaker is the field manager of the labels of a slot: applying these again
// touches no value.
const slotMaker = "causeway-slots"

// Slots are Secrets of one namespace that are called NAME, NAME-1 and so on, each
// written only over what was read there. Safe for concurrent use.
type Slots struct {
	namespace, name string
	count           int
	writer          *Writer
}

// NewSlots returns count Secrets, of which there may be none yet.
func (c *Client) NewSlots(namespace, name string, count int) (*Slots, error) {
	w, err := c.NewWriter(WriterConfig{
		Resource: Resource{GroupVersion: corev1.SchemeGroupVersion, Plural: "secrets", Object: &corev1.Secret{}, List: &corev1.SecretList{}},
		Manager:  slotMaker, PerSecond: 10, AtOnce: 40,
	})
	if err != nil {
		return nil, err
	}
	return &Slots{namespace: namespace, name: name, count: count, writer: w}, nil
}

// String names them for a person, by the first.
func (s *Slots) String() string { return fmt.Sprintf("Secret %s/%s", s.namespace, s.name) }

func (s *Slots) slot(n int) string {
	if n == 0 {
		return s.name
	}
	return fmt.Sprintf("%s-%d", s.name, n)
}

// Read returns what a slot holds and its version, which is "" where there is none.
func (s *Slots) Read(ctx context.Context, n int) (values map[string][]byte, version string, err error) {
	o, err := s.writer.Get(ctx, s.namespace, s.slot(n))
	if apierrors.IsNotFound(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", s.explain(n, "read", err)
	}
	secret := o.(*corev1.Secret) // the Resource's
	return secret.Data, secret.ResourceVersion, nil
}

// Write puts values into a slot of that version, beside those of other keys, and
// returns its next version. It returns ErrSlotChanged, wrapped, when the slot is of
// another version; after any other error it may be written all the same.
func (s *Slots) Write(ctx context.Context, n int, version string, values map[string][]byte) (next string, err error) {
	if version == "" {
		if version, err = s.make(ctx, n); err != nil {
			return "", err
		}
	}
	var patch struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	patch.Metadata.ResourceVersion, patch.Data = version, values
	text, err := json.Marshal(patch)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", s.slot(n), err)
	}
	o, err := s.writer.Merge(ctx, s.namespace, s.slot(n), text)
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return "", fmt.Errorf("Secret %s/%s: %w", s.namespace, s.slot(n), ErrSlotChanged)
	case err != nil:
		return "", s.explain(n, "write", err)
	}
	return o.(*corev1.Secret).ResourceVersion, nil
}

// make makes a slot without values and returns its version. Of two who do so at a
// time, only one can write to that version. It is applied, and not created: only
// so can a Role give the right to make a Secret of that name and no other.
func (s *Slots) make(ctx context.Context, n int) (version string, err error) {
	o, err := s.writer.Apply(ctx, &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.slot(n), Labels: map[string]string{
			"app.kubernetes.io/name": "clustermesh-apiserver", "app.kubernetes.io/part-of": "causeway",
		}},
	})
	if err != nil {
		return "", s.explain(n, "write", err)
	}
	secret := o.(*corev1.Secret)
	if len(secret.Data) > 0 {
		return "", fmt.Errorf("Secret %s/%s: %w", s.namespace, s.slot(n), ErrSlotChanged)
	}
	return secret.ResourceVersion, nil
}

// explain says what went wrong and what to do, without what was to be written.
func (s *Slots) explain(n int, verb string, err error) error {
	if apierrors.IsForbidden(err) && lacksVerb(err) {
		names := make([]string, 0, s.count)
		for i := range s.count {
			names = append(names, s.slot(i))
		}
		return fmt.Errorf("%w; give it a Role in namespace %s with the rule apiGroups: [\"\"], resources: [secrets], resourceNames: [%s], verbs: [get, create, patch]",
			statusOf(err), s.namespace, strings.Join(names, ", "))
	}
	return fmt.Errorf("Secret %s/%s: %w", s.namespace, s.slot(n), s.writer.client.describe(err, verb, &s.writer.cfg.Resource))
}
