package merge

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// mirrored makes the own cluster's service one that is mirrored, for IPv4.
func mirrored(ports ...service.Port) func(*service.Service) {
	return func(s *service.Service) {
		s.UID, s.Mirror = "u", &service.Mirror{Ports: ports, IPv4: true}
	}
}

func dual(s *service.Service) { s.Mirror.IPv6 = true }

// setLines says what is mirrored of shop/web, an endpoint a line.
func setLines(s *State) []string {
	m, ok := s.Mirrored(web)
	if !ok {
		return []string{"nothing"}
	}
	var lines []string
	for _, set := range m.Sets {
		for _, e := range set.Endpoints {
			line := set.Cluster + " " + e.Addresses[0].String()
			for _, p := range set.Ports {
				line += fmt.Sprintf(" %s:%d", p.Name, p.Port)
			}
			if e.Hostname != "" {
				line += " " + e.Hostname
			}
			switch {
			case e.Condition.Terminating:
				line += " terminating"
			case !e.Condition.Ready:
				line += " not ready"
			}
			if e.Node+e.Zone+e.TargetName != "" {
				line += " of another cluster's node, zone or pod"
			}
			lines = append(lines, line)
		}
	}
	for _, u := range m.Unusable {
		lines = append(lines, fmt.Sprintf("%s gives %d that are none, first %s", u.Cluster, u.Count, u.First))
	}
	return lines
}

// TestMirrored goes through what decides which backends Kubernetes is told.
func TestMirrored(t *testing.T) {
	metrics := service.Port{Name: "metrics", Protocol: service.TCP, Port: 9090}
	named := func(e service.Endpoint, hostname string) service.Endpoint {
		e.Hostname = hostname
		return e
	}
	both := func(ports ...service.Port) *service.Slice {
		s := slice(pod("10.9.0.1", ready))
		s.Ports = ports
		return s
	}
	v6 := slice(pod("fd00::9", ready))
	v6.IPv6 = true
	for name, c := range map[string]struct {
		own, west  *service.Service
		ownSlice   *service.Slice
		westSlices []*service.Slice
		want       []string
	}{
		"not asked for":       {own: svc(), west: svc(), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}, want: []string{"nothing"}},
		"not global":          {own: svc(mirrored(http), notGlobal), west: svc(), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}, want: []string{"nothing"}},
		"not here":            {west: svc(), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}, want: []string{"nothing"}},
		"not global there":    {own: svc(mirrored(http)), west: svc(notGlobal), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}},
		"not shared there":    {own: svc(mirrored(http)), west: svc(notShared), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}},
		"from the value":      {own: svc(mirrored(http)), west: svc(backends("10.9.0.7")), want: []string{"west 10.9.0.7 http:8080"}},
		"other names":         {own: svc(mirrored(metrics)), west: svc(), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}},
		"some names":          {own: svc(mirrored(http, metrics)), west: svc(), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}, want: []string{"west 10.9.0.1 http:8080"}},
		"the other family":    {own: svc(mirrored(http)), west: svc(), westSlices: []*service.Slice{v6}},
		"both families":       {own: svc(mirrored(http), dual), west: svc(), westSlices: []*service.Slice{v6}, want: []string{"west fd00::9 http:8080"}},
		"headless, no ports":  {own: svc(mirrored(), headless), west: svc(headless), westSlices: []*service.Slice{slice(named(pod("10.9.0.1", ready), "web-0"))}, want: []string{"west 10.9.0.1 web-0"}},
		"states":              {own: svc(mirrored(http)), west: svc(), westSlices: []*service.Slice{slice(pod("10.9.0.1", dying), pod("10.9.0.2", service.Condition{}))}, want: []string{"west 10.9.0.1 http:8080 terminating", "west 10.9.0.2 http:8080 not ready"}},
		"twice":               {own: svc(mirrored(http)), west: svc(), westSlices: []*service.Slice{slice(pod("10.9.0.1", dying)), slice(pod("10.9.0.1", ready))}, want: []string{"west 10.9.0.1 http:8080"}},
		"remote":              {own: svc(mirrored(http), affinity(service.AffinityRemote)), west: svc(), ownSlice: slice(pod("10.1.0.1", ready)), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}, want: []string{"west 10.9.0.1 http:8080"}},
		"special addresses":   {own: svc(mirrored(http), dual), west: svc(), westSlices: []*service.Slice{slice(pod("127.0.0.1", ready), pod("10.9.0.1", ready), pod("169.254.169.254", ready)), slice(pod("127.0.0.1", ready), pod("fe80::1", ready), pod("fd00::9", ready))}, want: []string{"west 10.9.0.1 http:8080", "west fd00::9 http:8080", "west gives 3 that are none, first 127.0.0.1"}},
		"local, one here":     {own: svc(mirrored(http), affinity(service.AffinityLocal)), west: svc(), ownSlice: slice(pod("10.1.0.1", ready)), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}},
		"local, none ready":   {own: svc(mirrored(http), affinity(service.AffinityLocal)), west: svc(), ownSlice: slice(pod("10.1.0.1", dying)), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}, want: []string{"west 10.9.0.1 http:8080"}},
		"local, by port":      {own: svc(mirrored(http, metrics), affinity(service.AffinityLocal)), west: svc(), ownSlice: slice(pod("10.1.0.1", ready)), westSlices: []*service.Slice{both(http8080, metrics)}, want: []string{"west 10.9.0.1 metrics:9090"}},
		"local, headless":     {own: svc(mirrored(), headless, affinity(service.AffinityLocal)), west: svc(headless), ownSlice: slice(pod("10.1.0.1", ready)), westSlices: []*service.Slice{slice(pod("10.9.0.1", ready))}},
		"local, other family": {own: svc(mirrored(http), dual, affinity(service.AffinityLocal)), west: svc(), ownSlice: slice(pod("10.1.0.1", ready)), westSlices: []*service.Slice{v6}, want: []string{"west fd00::9 http:8080"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := New("east")
			if c.own != nil {
				s.Apply("east", services(c.own))
			}
			if c.ownSlice != nil {
				s.Apply("east", sliceNamed("own", c.ownSlice))
			}
			s.Apply("west", services(c.west))
			for i, slice := range c.westSlices {
				s.Apply("west", sliceNamed(fmt.Sprint(i), slice))
			}
			if diff := cmp.Diff(c.want, setLines(s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got, want := len(s.MirrorNames()), 1; len(c.want) == 1 && c.want[0] == "nothing" {
				if got != 0 {
					t.Errorf("%d services to mirror", got)
				}
			} else if got != want {
				t.Errorf("%d services to mirror, want %d", got, want)
			}
		})
	}
}

// TestMirroredClusters checks that clusters are sets of their own, in one order, and
// that the one that leaves takes its own along.
func TestMirroredClusters(t *testing.T) {
	s := New("east")
	s.Apply("east", services(svc(mirrored(http))))
	for _, cluster := range []string{"west", "north"} {
		s.Apply(cluster, services(svc()))
		s.Apply(cluster, sliceNamed("a", slice(many(3)...)))
	}
	m, _ := s.Mirrored(web)
	if len(m.Sets) != 2 || m.Sets[0].Cluster != "north" || m.Count() != 6 || m.UID != "u" {
		t.Errorf("mirrored: %+v", m)
	}
	if !slices.IsSortedFunc(m.Sets[0].Endpoints, func(a, b service.Endpoint) int { return a.Addresses[0].Compare(b.Addresses[0]) }) {
		t.Error("endpoints are not sorted")
	}
	s.Remove("north")
	if m, _ := s.Mirrored(web); len(m.Sets) != 1 || m.Sets[0].Cluster != "west" {
		t.Errorf("after north has gone: %+v", m)
	}
}

// TestWatch checks that an engine tells of each service that was touched, and of none else.
func TestWatch(t *testing.T) {
	e := NewEngine("east", newNodes(t))
	var told []service.Name
	e.Watch(func(names []service.Name) { told = append(told, names...) })
	for _, step := range []func(){
		func() { e.Apply("east", services(svc(mirrored(http), headless))) },
		func() { e.Apply("west", services(svc(headless))) },
		func() { e.Apply("west", sliceNamed("a", slice(pod("10.9.0.1", ready)))) },
		func() { e.Remove("west") },
	} {
		told = nil
		step()
		if len(told) == 0 || told[0] != web {
			t.Errorf("told of %v", told)
		}
	}
	told = nil
	e.Remove("west")
	e.Reroute("west")
	if len(told) != 0 {
		t.Errorf("told of %v though nothing was touched", told)
	}
}

func TestUnmet(t *testing.T) {
	other := service.Port{Name: "web", Protocol: service.TCP, Port: 80}
	s := New("east")
	step := func(what string, want ...string) {
		t.Helper()
		u, is := s.Unmet(web)
		if is != (len(want) > 0) || !slices.Equal(u.Clusters, want) {
			t.Errorf("%s: unmet in %v, want %v", what, u.Clusters, want)
		}
		if is && (u.UID != "u" || !slices.Equal(u.Here, []service.Port{other}) || !slices.Equal(u.There, []service.Port{http8080})) {
			t.Errorf("%s: %+v", what, u)
		}
	}
	step("no service")
	own := svc(mirrored(other))
	own.Frontends = []service.Frontend{{IP: netip.MustParseAddr("10.96.0.7"), Ports: []service.Port{other}}}
	s.Apply("east", services(own))
	step("no peer")
	s.Apply("west", services(svc()))
	s.Apply("west", sliceNamed("a", slice(pod("10.9.0.1", service.Condition{}))))
	step("nobody is ready")
	s.Apply("west", sliceNamed("a", slice(pod("10.9.0.1", ready))))
	step("another name", "west")
	s.Apply("north", services(svc()))
	meets := slice(pod("10.8.0.1", ready))
	meets.Ports = []service.Port{other}
	s.Apply("north", sliceNamed("a", meets))
	step("one meets")
	s.Remove("north")
	step("it has gone", "west")
	s.Apply("west", services(svc(notShared)))
	step("not shared any more")
}
