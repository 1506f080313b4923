package service_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/service"
)

func TestParseMirror(t *testing.T) {
	const ours, theirs = service.AnnotationMirror, service.AnnotationMirrorCilium
	for name, c := range map[string]struct {
		annotations map[string]string
		def, want   bool
		wrong       bool
	}{
		"default on":         {def: true, want: true},
		"default off":        {},
		"on":                 {annotations: map[string]string{ours: "true"}, want: true},
		"off":                {annotations: map[string]string{ours: "False"}, def: true},
		"theirs":             {annotations: map[string]string{theirs: "true"}, want: true},
		"ours wins":          {annotations: map[string]string{ours: "false", theirs: "true"}, def: true},
		"wrong":              {annotations: map[string]string{ours: "yes"}, def: true, want: true, wrong: true},
		"wrong, default off": {annotations: map[string]string{theirs: "yes"}, wrong: true},
	} {
		got, err := service.ParseMirror(c.annotations, c.def)
		if got != c.want || (err != nil) != c.wrong || c.wrong && !errors.Is(err, service.ErrAnnotation) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
}

func TestIsMirrored(t *testing.T) {
	for by, want := range map[string]bool{
		"causeway.io": true, "endpointslice-mesh-controller.cilium.io": true,
		"endpointslice-controller.k8s.io": false, "causeway": false, "": false,
	} {
		if got := service.IsMirrored(map[string]string{service.LabelManagedBy: by}); got != want {
			t.Errorf("managed by %q: %v", by, got)
		}
	}
}

func TestMeetPorts(t *testing.T) {
	port := func(name string, number uint16) service.Port {
		return service.Port{Name: name, Protocol: service.TCP, Port: number}
	}
	front := []service.Port{port("metrics", 90), port("http", 80)}
	back := []service.Port{port("http", 8080), port("metrics", 0), port("admin", 1)}
	if got := service.MeetPorts(front, back); !slices.Equal(got, []service.Port{port("http", 8080)}) {
		t.Errorf("got %v", got)
	}
	if got := service.MeetPorts([]service.Port{port("", 80)}, []service.Port{port("", 8080)}); !slices.Equal(got, []service.Port{port("", 8080)}) {
		t.Errorf("unnamed: %v", got)
	}
	if a, b := service.PortsKey(front), service.PortsKey(back); a == b {
		t.Errorf("both are %q", a)
	}
}

// TestDivideIsStable takes members away: the others stay where they are, but for those
// of a part that is joined with another.
func TestDivideIsStable(t *testing.T) {
	parts := func(n int) map[string][]int {
		out := map[string][]int{}
		members := make([]int, n)
		for i := range members {
			members[i] = i
		}
		service.Divide("web", members, func(i int) uint64 { return service.Hash(fmt.Sprint(i)) }, func(name string, part []int) {
			if len(part) > service.MaxDivided || !slices.IsSorted(part) || out[name] != nil {
				t.Errorf("part %s of %d: %v", name, n, part)
			}
			out[name] = part
		})
		return out
	}
	for n := 990; n > 0; n -= 45 {
		before, after, differ := parts(n), parts(n-1), 0
		for name, part := range before {
			if !slices.Equal(part, after[name]) {
				differ++
			}
		}
		if differ > 2 {
			t.Errorf("one of %d less changes %d parts", n, differ)
		}
	}
	if got := parts(100); len(got) != 1 || len(got["web"]) != 100 {
		t.Errorf("100 members are in %d parts", len(got))
	}
}
