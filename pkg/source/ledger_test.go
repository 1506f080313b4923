package source

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testPod(name, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: ip},
		Status:     corev1.PodStatus{PodIP: ip},
	}
}

// TestLedgerTellsTheNewest checks what a sink is told of objects that change
// several times, or come and go, between two looks.
func TestLedgerTellsTheNewest(t *testing.T) {
	l := newLedger()
	first := testPod("a", "1")
	l.put(KindPod, first)
	l.put(KindPod, testPod("gone", "1"))
	l.remove(KindPod, objectName{"shop", "gone"})
	l.remove(KindPod, objectName{"shop", "never"})
	expectFlush(t, l, "+shop/a 1")

	l.put(KindPod, testPod("a", "2"))
	l.put(KindPod, testPod("a", "3"))
	expectFlush(t, l, "+shop/a 3")

	// What comes back to what it was is no change, and is the object that was given.
	given := l.objects[KindPod][objectName{"shop", "a"}]
	l.put(KindPod, testPod("a", "4"))
	l.put(KindPod, testPod("a", "3"))
	l.remove(KindPod, objectName{"shop", "a"})
	l.put(KindPod, testPod("a", "3"))
	expectFlush(t, l)
	l.put(KindPod, testPod("a", "5"))
	l.remove(KindPod, objectName{"shop", "a"})
	changes, counts := l.flush()
	if len(changes) != 1 || !changes[0].Deleted || changes[0].Object != given || counts[KindPod] != 0 {
		t.Errorf("flush: %v with counts %v, want the deletion of the object that was given last", changes, counts)
	}
}

// TestLedgerReplace checks that a listing takes away what it lacks, of its own kind
// alone, and that a new resourceVersion is no change.
func TestLedgerReplace(t *testing.T) {
	l := newLedger()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	l.replace(KindNode, []Object{node})
	l.replace(KindPod, []Object{testPod("b", "1"), testPod("a", "1")})
	expectFlush(t, l, "+n", "+shop/a 1", "+shop/b 1")
	same := testPod("a", "1")
	same.ResourceVersion = "77"
	l.replace(KindPod, []Object{same, testPod("c", "1")})
	expectFlush(t, l, "-shop/b 1", "+shop/c 1")
	l.replace(KindPod, nil)
	expectFlush(t, l, "-shop/a 1", "-shop/c 1")
	_, counts := l.flush()
	if diff := cmp.Diff(map[Kind]int{KindNamespace: 0, KindNode: 1, KindPod: 0, KindService: 0, KindEndpointSlice: 0}, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func expectFlush(t *testing.T, l *ledger, want ...string) {
	t.Helper()
	changes, _ := l.flush()
	var got []string
	for _, c := range changes {
		got = append(got, describeChange(c))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flush (-want +got):\n%s", diff)
	}
}

func describeChange(c Change) string {
	text := "+" + nameOf(c.Object).String()
	if c.Deleted {
		text = "-" + nameOf(c.Object).String()
	}
	if p, ok := c.Object.(*corev1.Pod); ok {
		text += " " + p.Status.PodIP
	}
	return text
}

// TestLedgerModel plays random changes and listings against a sink that only
// knows what it was told: after each flush it has what the API server has.
func TestLedgerModel(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		l := newLedger()
		truth, sink := map[string]string{}, map[string]Object{}
		for range 200 {
			name, ip := fmt.Sprint(random.IntN(6)), fmt.Sprint(random.IntN(3))
			switch random.IntN(8) {
			case 0:
				truth = map[string]string{name: ip}
				l.replace(KindPod, []Object{testPod(name, ip)})
			case 1, 2:
				delete(truth, name)
				l.remove(KindPod, objectName{"shop", name})
			default:
				truth[name] = ip
				l.put(KindPod, testPod(name, ip))
			}
			if random.IntN(3) > 0 {
				continue
			}
			changes, _ := l.flush()
			for _, c := range changes {
				name := c.Object.GetName()
				if c.Deleted {
					if sink[name] != c.Object {
						t.Fatalf("seed %d: %s is deleted with another object than was given", seed, name)
					}
					delete(sink, name)
					continue
				}
				sink[name] = c.Object
			}
			got := map[string]string{}
			for name, o := range sink {
				got[name] = o.(*corev1.Pod).Status.PodIP
			}
			if !maps.Equal(truth, got) {
				t.Fatalf("seed %d: the sink has %v, the API server %v", seed, got, truth)
			}
		}
		if slices.ContainsFunc(slices.Collect(maps.Values(sink)), func(o Object) bool { return o.GetResourceVersion() != "" }) {
			t.Fatal("a sink was given a resourceVersion")
		}
	}
}
