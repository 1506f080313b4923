package source

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// parsed names the objects of a text and their lines.
func parsed(t *testing.T, text string) []string {
	t.Helper()
	c, err := parse(t.Context(), []byte(text), nil)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return linesOf(c)
}

func linesOf(c content) []string {
	var found []string
	c.each(func(o Object, line int) { found = append(found, fmt.Sprintf("%d: %s", line, keyOf(o))) })
	return found
}

func TestParseForms(t *testing.T) {
	const listHead = "apiVersion: v1\nkind: List\n"
	tests := map[string]struct {
		text string
		want []string
	}{
		"one object":        {namespace("a"), []string{"1: Namespace a"}},
		"documents":         {namespace("a") + "---\n" + namespace("b") + "--- # more\n" + namespace("c") + "...\n", []string{"1: Namespace a", "6: Namespace b", "10: Namespace c"}},
		"leading mark":      {"# a comment\n---\n" + namespace("a"), []string{"3: Namespace a"}},
		"comments first":    {"\n# who\n\n" + namespace("a"), []string{"4: Namespace a"}},
		"empty documents":   {"---\n---\n\n---\n# nothing\n---\n" + namespace("a") + "---\n", []string{"7: Namespace a"}},
		"only a comment":    {"# nothing here\n", nil},
		"null":              {"null\n", nil},
		"directive":         {"%YAML 1.1\n---\n" + namespace("a"), []string{"3: Namespace a"}},
		"byte order mark":   {"\xef\xbb\xbf" + namespace("a"), []string{"1: Namespace a"}},
		"carriage returns":  {strings.ReplaceAll(listHead+"items:\n- "+strings.ReplaceAll(namespace("a"), "\n", "\n  ")+"\n", "\n", "\r\n"), []string{"4: Namespace a"}},
		"flow":              {"{apiVersion: v1, kind: Namespace, metadata: {name: a}}", []string{"1: Namespace a"}},
		"content at a mark": {"--- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n", []string{"1: Namespace a"}},
		"json":              {`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`, []string{"1: Namespace a"}},
		"json list": {
			"{\"apiVersion\":\"v1\",\n\"items\":[\n {\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\"}},\n {\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\n\"metadata\":{\"name\":\"b\"}}\n],\"kind\":\"List\"}",
			[]string{"3: Namespace a", "4: Namespace b"},
		},
		"list": {
			"apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: a\n# between\n- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: b\nkind: List\n",
			[]string{"3: Namespace a", "8: Namespace b"},
		},
		"indented list": {
			listHead + "items:  # all\n\n  - apiVersion: v1\n    kind: Namespace\n    metadata: {name: a}\n  -\n    apiVersion: v1\n    kind: Namespace\n    metadata: {name: b}\n",
			[]string{"5: Namespace a", "8: Namespace b"},
		},
		"empty list": {listHead + "items: []\n", nil},
		"null list":  {listHead + "items:\n", nil},
		"flow list":  {listHead + "items: [{apiVersion: v1, kind: Namespace, metadata: {name: a}}]\n", []string{"1: Namespace a"}},
		"items that share": {
			listHead + "items:\n- apiVersion: v1\n  kind: Namespace\n  metadata: &m {name: a}\n- apiVersion: v1\n  kind: Node\n  metadata: *m\n",
			[]string{"1: Namespace a", "1: Node a"},
		},
		"list of one kind": {
			"apiVersion: v1\nkind: NamespaceList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n",
			[]string{"4: Namespace a", "5: Namespace b"},
		},
		"list in a list": {
			listHead + "items:\n- apiVersion: v1\n  kind: List\n  items:\n  - {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n",
			[]string{"4: Namespace a"},
		},
		"items that are no list's": {"apiVersion: example.com/v1\nkind: Basket\nmetadata: {name: a}\nitems:\n- apple\n- pear\n", nil},
		"other kinds":              {"apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {generateName: a}\n", nil},
		"unknown fields":           {"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, colour: red}\nspeck: [1]\n", []string{"1: Namespace a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parsed(t, tt.text)); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	const good = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n---\n"
	list := "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n"
	tests := map[string]struct {
		text string
		line int
		want string
	}{
		"syntax":           {good + "apiVersion: v1\nkind: [Service\nmetadata: {}\n", 7, "did not find expected"},
		"syntax in a list": {list + "- apiVersion: v1\n  kind: Service\n metadata: {name: b}\n", 8, "did not find expected key"},
		"a tab":            {good + "apiVersion: v1\n\tkind: Service\n", 7, "found a tab character"},
		"json":             {"{\"apiVersion\": \"v1\",\n \"kind\": \"Service\",\n \"metadata\" {}}", 3, "invalid character"},
		"cut short":        {list[:len(list)-10] + "{name: b", 6, ""},
		"list cut short":   {"apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n", 1, "the object has no kind"},
		"no kind":          {good + "apiVersion: v1\nmetadata: {name: b}\n", 6, "no kind"},
		"no version":       {good + "kind: Service\nmetadata: {name: b}\n", 6, "the Service has no apiVersion"},
		"no name":          {good + "# it\napiVersion: v1\nkind: Pod\nmetadata: {generateName: b-}\n", 7, "the Pod has no metadata.name"},
		"no name in list":  {list + "- apiVersion: v1\n  kind: Pod\n", 7, "the Pod has no metadata.name"},
		"bad name":         {"apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}\n", 1, `Pod "a/b": a name may hold`},
		"bad namespace":    {"apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x.y}\n", 1, `namespace "x.y"`},
		"label of two": {
			"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: \"x;k8s:app=admin\"}}\n", 1,
			`Pod "a": metadata.labels: app: value "x;k8s:app=admin"`,
		},
		"label key": {
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {\"team=x;k8s:role\": admin}}\n", 1,
			`Namespace "a": metadata.labels: key "team=x;k8s:role"`,
		},
		"service account": {
			"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {serviceAccountName: \"x;k8s:app=admin\"}\n", 1,
			`Pod "a": spec.serviceAccountName "x;k8s:app=admin"`,
		},
		"old version":    {"apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}\n", 1, "is not read: write it as discovery.k8s.io/v1"},
		"no object":      {"- a\n- b\n", 1, "this is not an object"},
		"text":           {good + "hello\n", 6, "this is not an object"},
		"wrong type":     {good + "apiVersion: v1\nkind: Service\nmetadata:\n  name: b\n  annotations: {causeway.io/global: true}\n", 6, `Service "b": metadata.annotations: a bool stands where a string is expected (put it in quotes)`},
		"wrong number":   {"apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: http}]}\n", 1, "spec.ports.port: a string stands where a int32 is expected"},
		"items no array": {"apiVersion: v1\nkind: List\nitems: {a: b}\n", 1, ""},
		"deep lists":     {strings.Repeat(`{"apiVersion":"v1","kind":"List","items":[`, 9) + strings.Repeat("]}", 9), 1, "stand in each other"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t.Context(), []byte(tt.text), nil)
			var at *lineError
			if !errors.As(err, &at) {
				t.Fatalf("parse: %v, want an error at a line", err)
			}
			if at.line != tt.line || !strings.Contains(at.message, tt.want) {
				t.Errorf("parse: %v, want line %d: %s", err, tt.line, tt.want)
			}
			if strings.Contains(at.message, "\n") {
				t.Errorf("message %q has several lines", at.message)
			}
		})
	}
}

func TestParseDumps(t *testing.T) {
	for name, pods := range map[string]int{"east": 12, "west": 11} {
		t.Run(name, func(t *testing.T) {
			text := dump(t, name)
			c, err := parse(t.Context(), text, nil)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(text), "\n")
			counts := make(map[Kind]int)
			c.each(func(o Object, line int) {
				counts[KindOf(o)]++
				if !strings.HasPrefix(lines[line-1], "- ") {
					t.Errorf("%s at line %d: %q does not begin an item", keyOf(o), line, lines[line-1])
				}
				if len(o.GetManagedFields()) > 0 || o.GetAnnotations()[corev1.LastAppliedConfigAnnotation] != "" {
					t.Errorf("%s is not trimmed", keyOf(o))
				}
			})
			want := map[Kind]int{KindNamespace: 7, KindNode: 2, KindPod: pods, KindService: 7, KindEndpointSlice: 8}
			if diff := cmp.Diff(want, counts); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if c.ignored() != 1 {
				t.Errorf("%d objects of other kinds, want the NetworkPolicy", c.ignored())
			}
		})
	}
}

// TestParseReuse checks that a reload parses only what has changed.
func TestParseReuse(t *testing.T) {
	text := string(dump(t, "east"))
	before, err := parse(t.Context(), []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	changed := "\n\n" + strings.Replace(text, "    team: platform\n", "    team: changed\n", 1)
	changed = strings.Replace(changed, "      team: platform\n    managedFields", "      team: other\n    managedFields", 1)
	now, err := parse(t.Context(), []byte(changed), before)
	if err != nil {
		t.Fatal(err)
	}
	old := make(map[objectKey]Object)
	before.each(func(o Object, _ int) { old[keyOf(o)] = o })
	var differ []string
	now.each(func(o Object, line int) {
		if old[keyOf(o)] != o {
			differ = append(differ, keyOf(o).String())
		}
		if line < 3 {
			t.Errorf("%s at line %d, which is blank", keyOf(o), line)
		}
	})
	if diff := cmp.Diff([]string{"Namespace data"}, differ); diff != "" {
		t.Errorf("objects parsed again (-want +got):\n%s", diff)
	}
}

func TestParseStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := parse(ctx, dump(t, "east"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("parse: %v, want %v", err, context.Canceled)
	}
}

func TestParseDefaults(t *testing.T) {
	c, err := parse(t.Context(), []byte(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: fd00::1
  ports:
  - {port: 80}
  - {port: 81, name: b, protocol: UDP, targetPort: web}
---
apiVersion: v1
kind: Pod
metadata: {name: web, resourceVersion: "5", annotations: {kubectl.kubernetes.io/last-applied-configuration: x}}
spec:
  hostname: h
  volumes: [{name: v, emptyDir: {}}]
  containers: [{name: c, image: i, env: [{name: A, value: b}], ports: [{name: web, containerPort: 8080}]}]
status: {podIP: 10.0.0.1, hostIP: 10.1.0.1}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop}
addressType: IPv4
endpoints: []
ports: [{port: 80}]
---
apiVersion: v1
kind: Node
metadata: {name: m, namespace: nonsense}
spec: {podCIDR: 10.0.0.0/24}
status: {images: [{names: [a]}], capacity: {cpu: "2"}, conditions: [{type: DiskPressure, status: "False"}, {type: Ready, status: "True", lastHeartbeatTime: 2026-01-01T00:00:00Z}]}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	c.each(func(o Object, _ int) {
		text := ""
		switch o := o.(type) {
		case *corev1.Service:
			text = fmt.Sprintf("%s %v %v", o.Spec.Type, o.Spec.ClusterIPs, o.Spec.IPFamilies)
			for _, p := range o.Spec.Ports {
				text += fmt.Sprintf(" %s/%s/%d/%s", p.Name, p.Protocol, p.Port, p.TargetPort.String())
			}
		case *corev1.Pod:
			text = fmt.Sprintf("%d %q %s %v %v %v %v", len(o.Annotations), o.ResourceVersion, o.Spec.ServiceAccountName, o.Spec.Volumes, o.Spec.Containers[0].Ports, o.Status.PodIPs, o.Status.HostIPs)
		case *corev1.Node:
			text = fmt.Sprintf("%v %d", o.Spec.PodCIDRs, len(o.Status.Images))
			for _, c := range o.Status.Conditions {
				text += fmt.Sprintf(" %s %s %t", c.Type, c.Status, c.LastHeartbeatTime.IsZero())
			}
		}
		got[keyOf(o).String()] = text
	})
	want := map[string]string{
		"Service default/web":      "ClusterIP [fd00::1] [IPv6] /TCP/80/80 b/UDP/81/web",
		"Pod default/web":          `0 "" default [] [{web 0 8080 TCP }] [{10.0.0.1}] [{10.1.0.1}]`,
		"EndpointSlice shop/web-1": "",
		"Node m":                   "[10.0.0.0/24] 0 Ready True true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// parseWhole is the naive parser: no document is cut.
func parseWhole(ctx context.Context, text []byte) (content, error) {
	docs := splitFile(text)
	parts := make(content, len(docs))
	errs := make([]error, len(docs))
	for i := range docs {
		docs[i].chunks = []chunk{docs[i].whole}
		parts[i], errs[i] = parseChunk(docs[i].whole, nil)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return join(docs, parts, errs, nil)
}

// FuzzParse checks that no text makes the parser panic, and that cutting Lists into
// items makes no difference to what is in them.
func FuzzParse(f *testing.F) {
	f.Add([]byte(namespace("a") + "---\n" + serviceYAML("b", "c")))
	f.Add([]byte("apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: a\n- apiVersion: v1\n  kind: Node\n  metadata: {name: b}\nkind: List\n"))
	f.Add([]byte("apiVersion: v1\nkind: PodList\nitems:\n  - metadata: {name: a}\n  # c\n  - metadata: &x {name: b}\n  - metadata: *x\n"))
	f.Add([]byte(`{"kind":"List","apiVersion":"v1","items":[{"kind":"Service","apiVersion":"v1","metadata":{"name":"a"},"spec":{"ports":[{"port":1}]}}]}`))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems:\n- \"a\n- b\"\n- |\n c\n- - d\n-\te\nitems:\n"))
	f.Add(manyPods(f, 2))
	for _, kind := range []Kind{KindNamespace, KindNode, KindService, KindEndpointSlice} {
		f.Add([]byte("apiVersion: v1\nitems:\n" + oneOf(f, kind) + "kind: List\n"))
	}
	f.Add([]byte("%YAML 1.1\n---\r\n--- >\n a\n...\n# b"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cut, cutErr := parse(t.Context(), text, nil)
		whole, wholeErr := parseWhole(t.Context(), text)
		if (cutErr == nil) != (wholeErr == nil) {
			t.Fatalf("cut: %v, whole: %v", cutErr, wholeErr)
		}
		var at *lineError
		if cutErr != nil && (!errors.As(cutErr, &at) || at.line < 1 || at.line > strings.Count(string(text), "\n")+2) {
			t.Fatalf("%v is at no line of the text", cutErr)
		}
		objects := func(c content) (objects []Object) {
			c.each(func(o Object, _ int) { objects = append(objects, o) })
			return objects
		}
		if a, b := objects(cut), objects(whole); !equality.Semantic.DeepEqual(a, b) {
			t.Fatalf("cut: %v, whole: %v", a, b)
		}
		again, err := parse(t.Context(), text, cut)
		if err != nil && cutErr == nil || !slices.Equal(objects(again), objects(cut)) {
			t.Fatalf("again: %v, %v", again, err)
		}
	})
}

// oneOf returns the first object of a kind in a real dump, as an item of its List.
func oneOf(tb testing.TB, kind Kind) string {
	tb.Helper()
	text := string(dump(tb, "west"))
	at := strings.Index(text, "  kind: "+string(kind)+"\n")
	begin := strings.LastIndex(text[:at], "\n- ") + 1
	end := begin + strings.Index(text[begin:], "\n- ") + 1
	return text[begin:end]
}

// manyPods returns a dump of so many pods, made of one real one.
func manyPods(tb testing.TB, n int) []byte {
	tb.Helper()
	pod := oneOf(tb, KindPod)
	nameAt := strings.Index(pod, "\n    name: ") + 1
	name := pod[nameAt : nameAt+strings.Index(pod[nameAt:], "\n")]
	var b strings.Builder
	b.WriteString("apiVersion: v1\nitems:\n")
	for i := range n {
		b.WriteString(strings.Replace(pod, name, fmt.Sprintf("%s-%d", name, i), 1))
	}
	b.WriteString("kind: List\n")
	return []byte(b.String())
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		text := manyPods(b, n)
		b.Run(fmt.Sprintf("pods=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parse(b.Context(), text, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("again/pods=%d", n), func(b *testing.B) {
			before, err := parse(b.Context(), text, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := parse(b.Context(), text, before); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestManyPods(t *testing.T) {
	c, err := parse(t.Context(), manyPods(t, 50), nil)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[objectKey]bool)
	c.each(func(o Object, _ int) { names[keyOf(o)] = true })
	if len(names) != 50 {
		t.Errorf("%d pods, want 50: %v", len(names), slices.Collect(maps.Keys(names)))
	}
}
