package source

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// TestSourcesAgree checks that an object is the same whether an API server sent it
// or a dump of it was read: over all objects of real clusters.
func TestSourcesAgree(t *testing.T) {
	for _, name := range []string{"east", "west"} {
		text := dump(t, name)
		want := make(map[objectKey]Object)
		c, err := parse(t.Context(), text, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.each(func(o Object, _ int) { want[keyOf(o)] = o })
		kinds := make(map[Kind]int)
		for _, o := range sent(t, text) {
			got := reduce(o)
			got.SetResourceVersion("")
			key := keyOf(got)
			kinds[key.kind]++
			if !equality.Semantic.DeepEqual(want[key], got) {
				t.Errorf("%s of %s (-manifest +API):\n%s", key, name, cmp.Diff(want[key], got))
			}
			delete(want, key)
		}
		if len(want) > 0 {
			t.Errorf("%d objects of %s were not compared", len(want), name)
		}
		for _, kind := range Kinds() {
			if kinds[kind] == 0 {
				t.Errorf("%s has no %s: nothing is shown for that kind", name, kind)
			}
		}
	}
}

// wired is an object that has an API server's binary encoding.
type wired interface {
	Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// sent returns the objects of a dump as an API server sends them.
func sent(t *testing.T, text []byte) []Object {
	t.Helper()
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := yaml.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	var objects []Object
	for _, raw := range list.Items {
		var head metav1.TypeMeta
		if err := json.Unmarshal(raw, &head); err != nil {
			t.Fatal(err)
		}
		written, read := emptyOf(Kind(head.Kind)), emptyOf(Kind(head.Kind))
		if written == nil {
			continue
		}
		// YAML's, since a machine id may read as a number.
		if err := yaml.Unmarshal(raw, written); err != nil {
			t.Fatal(err)
		}
		bytes, err := written.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := read.Unmarshal(bytes); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, read)
	}
	return objects
}

func emptyOf(kind Kind) wired {
	switch kind {
	case KindNamespace:
		return &corev1.Namespace{}
	case KindNode:
		return &corev1.Node{}
	case KindPod:
		return &corev1.Pod{}
	case KindService:
		return &corev1.Service{}
	case KindEndpointSlice:
		return &discoveryv1.EndpointSlice{}
	}
	return nil
}

// TestReduceDrops checks that what is large or changes all the time goes, and what
// the mesh looks at stays.
func TestReduceDrops(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := reduce(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "a", ResourceVersion: "7", Labels: map[string]string{"app": "a"},
			Annotations: map[string]string{"large": "x"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.PodSpec{
			NodeName: "n1",
			Volumes:  []corev1.Volume{{Name: "v"}},
			Containers: []corev1.Container{
				{Name: "none", Env: []corev1.EnvVar{{Name: "A"}}},
				{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}},
			},
			InitContainers: []corev1.Container{{Name: "side", RestartPolicy: &always, Ports: []corev1.ContainerPort{{ContainerPort: 81, Protocol: corev1.ProtocolUDP}}}},
		},
		Status: corev1.PodStatus{
			PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{Name: "c"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled}, {Type: corev1.PodReady, Status: corev1.ConditionTrue, Message: "m"}},
		},
	})
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", ResourceVersion: "7", Labels: map[string]string{"app": "a"}},
		Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "default",
			Containers:     []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80, Protocol: corev1.ProtocolTCP}}}},
			InitContainers: []corev1.Container{{Name: "side", RestartPolicy: &always, Ports: []corev1.ContainerPort{{ContainerPort: 81, Protocol: corev1.ProtocolUDP}}}},
		},
		Status: corev1.PodStatus{
			PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	if diff := cmp.Diff(want, pod); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
	annotated := map[string]string{corev1.LastAppliedConfigAnnotation: "x", corev1.EndpointsLastChangeTriggerTime: "y", "causeway.io/global": "true"}
	service := reduce(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: annotated},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}).(*corev1.Service)
	if diff := cmp.Diff(map[string]string{"causeway.io/global": "true"}, service.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if got := service.Spec.Ports[0].TargetPort; got != intstr.FromInt32(80) {
		t.Errorf("target port %v, want that of the Service", got)
	}
	// A heartbeat of a Node is no change.
	node := func(beat string) Object {
		return reduce(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Message: beat}}, NodeInfo: corev1.NodeSystemInfo{BootID: "b", KernelVersion: beat}},
		})
	}
	if !equality.Semantic.DeepEqual(node("1"), node("2")) {
		t.Errorf("a heartbeat changes a node: %s", cmp.Diff(node("1"), node("2")))
	}
}
