package source

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
)

// objectName is a namespace and a name.
type objectName struct{ namespace, name string }

func nameOf(o Object) objectName { return objectName{o.GetNamespace(), o.GetName()} }

func (n objectName) String() string {
	if n.namespace == "" {
		return n.name
	}
	return n.namespace + "/" + n.name
}

// objectKey identifies an object in a cluster.
type objectKey struct {
	kind Kind
	objectName
}

func keyOf(o Object) objectKey { return objectKey{KindOf(o), nameOf(o)} }

func (k objectKey) String() string { return string(k.kind) + " " + k.objectName.String() }

// claim is an object as one file has it.
type claim struct {
	object Object
	file   string
	line   int
}

func compareClaims(a, b claim) int {
	return cmp.Or(strings.Compare(a.file, b.file), cmp.Compare(a.line, b.line))
}

// table joins the contents of all files. An object that stands in several
// places is taken from the first, by path and line, as long as that has it. It is
// owned by one goroutine.
type table struct {
	claims    map[objectKey][]claim // sorted
	contested map[objectKey]bool    // those with more than one claim
	touched   map[objectKey]bool    // since the last flush
	current   map[objectKey]Object  // what was flushed last
	counts    map[Kind]int          // of current
	deriver   *deriver
}

func newTable() *table {
	return &table{
		claims:    make(map[objectKey][]claim),
		contested: make(map[objectKey]bool),
		touched:   make(map[objectKey]bool),
		current:   make(map[objectKey]Object),
		counts:    make(map[Kind]int),
		deriver:   newDeriver(),
	}
}

// replace takes a file's content in place of the one before.
func (t *table) replace(file string, before, now content) {
	before.each(func(o Object, _ int) {
		key := keyOf(o)
		t.set(key, slices.DeleteFunc(t.claims[key], func(c claim) bool { return c.file == file }))
	})
	now.each(func(o Object, line int) {
		key := keyOf(o)
		claims := append(t.claims[key], claim{object: o, file: file, line: line})
		if len(claims) > 1 {
			slices.SortFunc(claims, compareClaims)
		}
		t.set(key, claims)
	})
}

func (t *table) set(key objectKey, claims []claim) {
	t.touched[key] = true
	if len(claims) == 0 {
		delete(t.claims, key)
	} else {
		t.claims[key] = claims
	}
	if len(claims) > 1 {
		t.contested[key] = true
	} else {
		delete(t.contested, key)
	}
}

// flush returns what the replacements since the last flush changed, derived
// slices included: deletions first, from slices up to namespaces, then the rest the
// other way round.
func (t *table) flush() []Change {
	var changes []Change
	for key := range t.touched {
		var now Object
		if claims := t.claims[key]; len(claims) > 0 {
			now = claims[0].object
		}
		before := t.current[key]
		if before == now || (before != nil && now != nil && equality.Semantic.DeepEqual(before, now)) {
			continue
		}
		t.deriver.update(before, now)
		if now == nil {
			delete(t.current, key)
			changes = append(changes, Change{Object: before, Deleted: true})
			continue
		}
		t.current[key] = now
		changes = append(changes, Change{Object: now})
		if before == nil {
			t.counts[key.kind]++
		}
	}
	for _, c := range changes {
		if c.Deleted {
			t.counts[KindOf(c.Object)]--
		}
	}
	clear(t.touched)
	changes = append(changes, t.deriver.flush()...)
	slices.SortFunc(changes, compareChanges)
	return changes
}

func compareChanges(a, b Change) int {
	if a.Deleted != b.Deleted {
		if a.Deleted {
			return -1
		}
		return 1
	}
	kinds := Kinds()
	x, y := keyOf(a.Object), keyOf(b.Object)
	order := cmp.Compare(slices.Index(kinds, x.kind), slices.Index(kinds, y.kind))
	if a.Deleted {
		order = -order
	}
	return cmp.Or(order, strings.Compare(x.namespace, y.namespace), strings.Compare(x.name, y.name))
}

// duplicates returns a problem for each file that has objects which another
// place has first.
func (t *table) duplicates() []Problem {
	byFile := make(map[string][]duplicate)
	for key := range t.contested {
		claims := t.claims[key]
		for _, c := range claims[1:] {
			byFile[c.file] = append(byFile[c.file], duplicate{key: key, claim: c, first: claims[0]})
		}
	}
	var problems []Problem
	for file, found := range byFile {
		d := slices.MinFunc(found, func(a, b duplicate) int {
			return cmp.Or(cmp.Compare(a.line, b.line), strings.Compare(a.key.String(), b.key.String()))
		})
		more := ""
		if len(found) > 1 {
			more = fmt.Sprintf(" (so do %d more objects of this file)", len(found)-1)
		}
		problems = append(problems, Problem{File: file, Line: d.line, Message: fmt.Sprintf(
			"%s stands in %s at line %d already, which is the one that counts%s: remove one of the two", d.key, d.first.file, d.first.line, more)})
	}
	return problems
}

// duplicate is a claim that does not count.
type duplicate struct {
	key objectKey
	claim
	first claim
}
