package merge

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whoever speaks at the same time as others: the sink has what the state has.
func TestEngine(t *testing.T) {
	n := newNodes(t)
	e := NewEngine("east", n)
	e.Apply("east", services(svc()))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			cluster := fmt.Sprintf("west-%d", i)
			for j := range 50 {
				e.Apply(cluster, services(svc()))
				e.Apply(cluster, sliceNamed("web-1", slice(pod(fmt.Sprintf("10.%d.0.%d", i, j), ready))))
				if i%2 == 1 {
					e.Remove(cluster)
				}
				e.Read(func(s *State) { s.Counts() })
			}
		})
	}
	wg.Wait()
	want := map[string][]string{}
	for i := 0; i < 8; i += 2 {
		want[fmt.Sprintf("west-%d", i)] = []string{fmt.Sprintf("10.%d.0.49", i)}
	}
	if diff := cmp.Diff(want, n.ips()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	e.Read(func(s *State) {
		if s.Local() != "east" || len(s.Counts()) != 5 {
			t.Errorf("local %q, %d clusters; want east and 5", s.Local(), len(s.Counts()))
		}
	})
}
