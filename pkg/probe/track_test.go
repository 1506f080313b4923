package probe

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func good() round {
	return round{
		from: ourMesh, asked: 1, answered: 1, rtt: time.Millisecond, seen: ourMesh,
		device: 1450, passes: 1450, pod: ourPod, marked: ourPod,
	}
}

func with(r round, change func(*round)) round {
	change(&r)
	return r
}

func lost() round { return round{from: ourMesh, asked: attempts} }

func TestState(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.1")
	unmarked := with(good(), func(r *round) { r.marked = netip.Addr{} })
	for name, test := range map[string]struct {
		rounds []round
		want   State
		reason string
		source Source
	}{
		"nothing yet":           {nil, Pending, "", ""},
		"good":                  {[]round{good()}, Reachable, "", SourceKept},
		"lost once":             {[]round{good(), lost()}, Pending, "", ""},
		"lost":                  {[]round{lost(), lost()}, Unreachable, reasonSilent, ""},
		"back again":            {[]round{lost(), lost(), lost(), good()}, Reachable, "", SourceKept},
		"nobody there":          {[]round{lost(), with(lost(), func(r *round) { r.refused = true })}, Unreachable, reasonRefused, ""},
		"no route":              {[]round{lost(), with(lost(), func(r *round) { r.failed = errors.New("no route") })}, Unreachable, reasonSend, ""},
		"dropped here":          {[]round{lost(), with(lost(), func(r *round) { r.dropped = drop{"node", ourMesh} })}, Unreachable, reasonDropped, ""},
		"changed and dropped":   {[]round{lost(), with(lost(), func(r *round) { r.dropped = drop{"source", other} })}, Unreachable, reasonSource, SourceChanged},
		"changed":               {[]round{with(good(), func(r *round) { r.seen = other })}, Degraded, reasonSource, SourceChanged},
		"a pod's changed":       {[]round{with(good(), func(r *round) { r.marked = ourMesh })}, Degraded, reasonSource, SourceChanged},
		"a mark late":           {[]round{unmarked, unmarked, good()}, Reachable, "", SourceKept},
		"a mark lost twice":     {[]round{unmarked, unmarked}, Reachable, "", SourceKept},
		"marks lost":            {[]round{unmarked, unmarked, unmarked}, Degraded, reasonPods, SourceKept},
		"marks dropped":         {[]round{unmarked, unmarked, with(unmarked, func(r *round) { r.podDropped = drop{"source", ourPod} })}, Degraded, reasonPods, SourceKept},
		"marks changed":         {[]round{unmarked, unmarked, with(unmarked, func(r *round) { r.podDropped = drop{"source", other} })}, Degraded, reasonSource, SourceChanged},
		"no pod to try with":    {[]round{with(unmarked, func(r *round) { r.pod = netip.Addr{} })}, Reachable, "", SourceKept},
		"small packets only":    {[]round{with(good(), func(r *round) { r.passes = 1350 })}, Degraded, reasonMTU, SourceKept},
		"no large ones at all":  {[]round{with(good(), func(r *round) { r.passes = 0 })}, Degraded, reasonMTU, SourceKept},
		"a device not known":    {[]round{with(good(), func(r *round) { r.device, r.passes = 0, 0 })}, Reachable, "", SourceKept},
		"half of it lost":       {repeat(with(good(), func(r *round) { r.asked = 2 }), 10), Degraded, reasonLoss, SourceKept},
		"one of sixteen lost":   {append(repeat(good(), 15), with(good(), func(r *round) { r.asked = 2 })), Reachable, "", SourceKept},
		"away between two good": {[]round{good(), lost(), good()}, Reachable, "", SourceKept},
	} {
		t.Run(name, func(t *testing.T) {
			var track track
			for _, r := range test.rounds {
				track.note(r)
			}
			state, troubles := track.state()
			reason := ""
			if len(troubles) > 0 {
				reason = troubles[0].Reason
			}
			if state != test.want || reason != test.reason || track.source() != test.source {
				t.Errorf("%s %q source %q, want %s %q source %q", state, reason, track.source(), test.want, test.reason, test.source)
			}
		})
	}
}

func repeat(r round, n int) []round {
	var out []round
	for range n {
		out = append(out, r)
	}
	return out
}

func TestRoundTripIsSmoothed(t *testing.T) {
	var track track
	track.note(good())
	track.note(with(good(), func(r *round) { r.rtt = 9 * time.Millisecond }))
	if want := 2 * time.Millisecond; track.rtt != want {
		t.Errorf("rtt %s, want %s", track.rtt, want)
	}
}

func TestEveryReasonHasWords(t *testing.T) {
	names := map[string]bool{}
	for _, r := range Reasons() {
		if r.Name == "" || r.Means == "" || r.Do == "" || names[r.Name] || ReasonNamed(r.Name) != r {
			t.Errorf("reason %+v", r)
		}
		names[r.Name] = true
	}
	if r := ReasonNamed("of tomorrow"); r.Name != "of tomorrow" || r.Do == "" {
		t.Errorf("a reason of a newer agent: %+v", r)
	}
}
