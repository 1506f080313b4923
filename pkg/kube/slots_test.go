package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// keeperRights are those that the message of Slots asks for, for three of them.
const keeperRights = `apiVersion: v1
kind: ServiceAccount
metadata: {name: keeper, namespace: default}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: nobody, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: keeper, namespace: default}
rules:
- {apiGroups: [""], resources: [secrets], resourceNames: [state, state-1, state-2], verbs: [get, create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keeper, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: keeper}
subjects: [{kind: ServiceAccount, name: keeper, namespace: default}]
`

// TestSlots writes Secrets with the least rights, each over what was read alone.
func TestSlots(t *testing.T) {
	t.Parallel()
	plane := kubelab.Start(t, kubelab.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	apply(t, plane, keeperRights)
	slotsOf := func(account string) *Slots {
		slots, err := clientOf(t, kubeconfigOf(t, plane, account)).NewSlots("default", "state", 3)
		if err != nil {
			t.Fatal(err)
		}
		return slots
	}
	one, two := slotsOf("keeper"), slotsOf("keeper")
	// A Role counts a moment after it was made.
	kubelab.UntilSo(t, "the right to read", func() bool {
		_, version, err := one.Read(ctx, 0)
		return err == nil && version == ""
	})
	large := make([]byte, 1000<<10)
	_, _ = rand.Read(large)
	first, err := one.Write(ctx, 0, "", map[string][]byte{"head": []byte("1"), "part": large})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Write(ctx, 0, "", map[string][]byte{"head": []byte("2")}); !errors.Is(err, ErrSlotChanged) {
		t.Errorf("made once more: %v", err)
	}
	values, version, err := two.Read(ctx, 0)
	if err != nil || string(values["head"]) != "1" || !bytes.Equal(values["part"], large) || version != first {
		t.Fatalf("read %q, %d bytes of version %q, want %q: %v", values["head"], len(values["part"]), version, first, err)
	}
	second, err := two.Write(ctx, 0, version, map[string][]byte{"head": []byte("2")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.Write(ctx, 0, first, map[string][]byte{"head": []byte("old")}); !errors.Is(err, ErrSlotChanged) || !strings.Contains(err.Error(), "Secret default/state: ") {
		t.Errorf("written over what was not read: %v", err)
	}
	if values, version, err = one.Read(ctx, 0); err != nil || string(values["head"]) != "2" || len(values["part"]) != len(large) || version != second {
		t.Errorf("read %q, %d bytes of version %q: %v", values["head"], len(values["part"]), version, err)
	}
	if _, err := one.Write(ctx, 2, "", map[string][]byte{"part": []byte("x")}); err != nil {
		t.Error(err)
	}
	if _, err := plane.Kubectl(ctx, "", "delete", "secret", "state"); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Write(ctx, 0, second, map[string][]byte{"head": []byte("3")}); !errors.Is(err, ErrSlotChanged) {
		t.Errorf("written where it was deleted: %v", err)
	}

	_, _, err = slotsOf("nobody").Read(ctx, 0)
	want := `give it a Role in namespace default with the rule apiGroups: [""], resources: [secrets], resourceNames: [state, state-1, state-2], verbs: [get, create, patch]`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	elsewhere, err := clientOf(t, plane.Kubeconfig()).NewSlots("nowhere", "state", 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Write(ctx, 0, "", map[string][]byte{"head": large[:10]}); err == nil || !strings.Contains(err.Error(), `namespaces "nowhere" not found`) {
		t.Errorf("in no namespace: %v", err)
	}
	plane.KillAPIServer()
	if _, _, err := one.Read(ctx, 0); err == nil || !strings.Contains(err.Error(), "Secret default/state: "+one.writer.client.server+" cannot be reached") {
		t.Errorf("with no API server: %v", err)
	}
}
