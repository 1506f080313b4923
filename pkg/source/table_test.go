package source

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTableModel replaces files at random and compares what the changes add up to
// with the first of all claims, and the problems with the others.
func TestTableModel(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 2))
		tab := newTable()
		files := make(map[string]content)
		given := make(map[objectKey]Object)
		for step := range 60 {
			for range 1 + random.IntN(3) {
				name := fmt.Sprintf("%c.yaml", 'a'+random.IntN(4))
				now := randomContent(random)
				tab.replace(name, files[name], now)
				files[name] = now
			}
			changed := make(map[objectKey]bool)
			for _, c := range tab.flush() {
				key := keyOf(c.Object)
				if changed[key] {
					t.Fatalf("seed %d, step %d: %s changes twice", seed, step, key)
				}
				changed[key] = true
				switch {
				case !c.Deleted && given[key] == c.Object:
					t.Fatalf("seed %d, step %d: %s is given again", seed, step, key)
				case !c.Deleted:
					given[key] = c.Object
				case given[key] != c.Object:
					t.Fatalf("seed %d, step %d: %s goes, but is not what was given", seed, step, key)
				default:
					delete(given, key)
				}
			}
			want, losers := firstClaims(files)
			if diff := cmp.Diff(want, notes(given)); diff != "" {
				t.Fatalf("seed %d, step %d: objects (-want +got):\n%s", seed, step, diff)
			}
			var found []string
			for _, p := range tab.duplicates() {
				found = append(found, fmt.Sprintf("%s:%d", p.File, p.Line))
			}
			slices.Sort(found)
			if diff := cmp.Diff(losers, found); diff != "" {
				t.Fatalf("seed %d, step %d: problems (-want +got):\n%s", seed, step, diff)
			}
			if total := tab.counts[KindService] + tab.counts[KindNamespace]; total != len(given) {
				t.Fatalf("seed %d, step %d: %d objects counted, want %d", seed, step, total, len(given))
			}
		}
	}
}

func randomContent(random *rand.Rand) content {
	var c content
	line := 1
	for range random.IntN(4) {
		name := string(rune('a' + random.IntN(4)))
		var o Object
		if random.IntN(2) == 0 {
			m := namespaceManifest{Metadata: meta{Name: name, Annotations: map[string]string{"note": fmt.Sprint(random.IntN(3))}}}
			o = m.object()
		} else {
			m := serviceManifest{Metadata: meta{Name: name, Annotations: map[string]string{"note": fmt.Sprint(random.IntN(3))}}}
			o = m.object()
		}
		c = append(c, part{line: line, objects: []located{{object: o}}})
		line += 5
	}
	return c
}

// firstClaims is the naive model: the first of each object by path and line, and
// the first line of each file that has one of the others.
func firstClaims(files map[string]content) (want map[string]string, losers []string) {
	var all []claim
	for name, c := range files {
		c.each(func(o Object, line int) { all = append(all, claim{object: o, file: name, line: line}) })
	}
	slices.SortFunc(all, compareClaims)
	want = make(map[string]string)
	lost := make(map[string]bool)
	for _, c := range all {
		key := keyOf(c.object).String()
		if _, taken := want[key]; !taken {
			want[key] = c.object.GetAnnotations()["note"]
		} else if !lost[c.file] {
			lost[c.file] = true
			losers = append(losers, fmt.Sprintf("%s:%d", c.file, c.line))
		}
	}
	slices.Sort(losers)
	return want, losers
}

func notes(objects map[objectKey]Object) map[string]string {
	found := make(map[string]string)
	for key, o := range objects {
		found[key.String()] = o.GetAnnotations()["note"]
	}
	return found
}

// TestTableLargeFile changes one pod of many: one change comes of it.
func TestTableLargeFile(t *testing.T) {
	text := manyPods(t, 300)
	before, err := parse(t.Context(), text, nil)
	if err != nil {
		t.Fatal(err)
	}
	tab := newTable()
	tab.replace("dump.yaml", nil, before)
	if n := len(tab.flush()); n != 300 {
		t.Fatalf("%d changes, want 300", n)
	}
	at := strings.LastIndex(string(text), "    podIP: ")
	changed := string(text[:at]) + "    podIP: 10.9.9.9\n    was:" + string(text[at+len("    podIP:"):])
	now, err := parse(t.Context(), []byte(changed), before)
	if err != nil {
		t.Fatal(err)
	}
	tab.replace("dump.yaml", before, now)
	changes := tab.flush()
	if len(changes) != 1 || !strings.HasSuffix(changes[0].Object.GetName(), "-299") {
		t.Errorf("changes %v, want one of the last pod", changes)
	}
	if changes := tab.flush(); len(changes) > 0 {
		t.Errorf("changes %v after none", changes)
	}
}

// BenchmarkTable takes up many pods with many services that have no slices, and
// then one pod's change.
func BenchmarkTable(b *testing.B) {
	const pods, services = 50000, 1000
	var c content
	add := func(m manifest) {
		c = append(c, part{line: len(c), objects: []located{{object: m.object()}}})
	}
	for i := range services {
		m := serviceManifest{Metadata: meta{Name: fmt.Sprintf("s%d", i)}}
		m.Spec.Selector = map[string]string{"app": fmt.Sprint(i)}
		add(&m)
	}
	for i := range pods {
		m := podManifest{Metadata: meta{Name: fmt.Sprintf("p%d", i), Labels: map[string]string{"app": fmt.Sprint(i % services), "own": fmt.Sprint(i)}}}
		m.Status.PodIP = fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
		add(&m)
	}
	m := podManifest{Metadata: meta{Name: "p7"}}
	now := slices.Clone(c)
	now[services+7] = part{objects: []located{{object: m.object()}}}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			tab := newTable()
			tab.replace("dump.yaml", nil, c)
			tab.flush()
		}
	})
	b.Run("again", func(b *testing.B) {
		tab := newTable()
		tab.replace("dump.yaml", nil, c)
		tab.flush()
		for b.Loop() {
			tab.replace("dump.yaml", c, now)
			if changes := tab.flush(); len(changes) != 2 {
				b.Fatalf("%d changes, want the pod's and its slice's", len(changes))
			}
			c, now = now, c
		}
	})
}
