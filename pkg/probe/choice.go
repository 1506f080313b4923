package probe

import (
	"fmt"
	"time"

	"github.com/causeway-mesh/causeway/pkg/route"
)

const (
	// calmFirst is for how long all that is tried must have been good before packets
	// are left to the network. It doubles each time that this did not last for
	// calmLimit, which bounds it.
	calmFirst = 10 * time.Second
	calmLimit = 10 * time.Minute
	// blindTime is how long nothing may be known before that alone is a reason to go
	// back to the tunnel: the probe pods may be made anew.
	blindTime = 10 * time.Second
)

// evidence is what all nodes found of the network's own way to a peer.
type evidence struct {
	nodes int // that said anything
	// Of so many paths how many are good, and how many are not; the others are not
	// known.
	paths, good, bad int
	// against is of how many the other side keeps to its tunnel.
	against int
	// trouble is the first of what is wrong, on node.
	trouble Trouble
	node    string
}

// add takes in what one node found.
func (e *evidence) add(node string, s *Summary) {
	e.nodes++
	e.paths += s.Paths
	e.good += s.Reachable
	e.bad += s.Degraded + s.Unreachable
	e.against += s.Against
	for _, t := range s.Troubles {
		if e.trouble.Reason == "" || rankOf(t) > rankOf(e.trouble) {
			e.trouble, e.node = t, node
		}
	}
}

// rankOf puts what says that the way is no good before what says that it is not
// known; that there is no pod at all comes last.
func rankOf(t Trouble) int {
	switch t.Reason {
	case reasonNoPod, reasonNoPeerPod, reasonPodFamily:
		return 0
	case reasonMute, reasonAway:
		return 1
	}
	return 2
}

// choice is how packets go to one peer, where that is found out. It is pure: time is
// what it is told.
type choice struct {
	mode   route.Mode
	search route.Search
	reason string
	// since is from when on all was good, changed when packets were left to the
	// network last, blind from when on nothing was known; the zero Time for not.
	since, changed, blind time.Time
	calm                  time.Duration
}

func newChoice() *choice {
	return &choice{mode: route.VXLAN, search: route.Unfit, reason: "no agent has said yet what it finds", calm: calmFirst}
}

// weigh chooses by what is known now. To the tunnel it goes back at once when
// something is wrong, and soon when nothing is known; to the network after a while of
// good news, and of both sides.
func (c *choice) weigh(peer string, now time.Time, e evidence) {
	unknown := e.good+e.bad == 0
	switch {
	case !unknown:
		c.blind = time.Time{}
	case c.blind.IsZero():
		c.blind = now
	}
	switch {
	case unknown && c.search == route.Fit && now.Sub(c.blind) < blindTime:
		c.reason = fmt.Sprintf("as before, until nothing is known for %s: %s", blindTime, e.why(peer))
	case unknown:
		c.unfit(now, e.why(peer))
	case e.bad > 0:
		c.unfit(now, fmt.Sprintf("%s (%d of %d ways between probe pods)", e.why(peer), e.bad, e.paths))
	case c.search == route.Fit:
		c.agree(peer, now, e)
	case e.good < e.paths:
		c.since = time.Time{}
		c.reason = fmt.Sprintf("%d of %d ways between probe pods are not known yet: %s", e.paths-e.good, e.paths, e.why(peer))
	default:
		if c.since.IsZero() {
			c.since = now
		}
		c.reason = fmt.Sprintf("packets arrive unchanged both ways between probe pods, and have to for %s", c.calm)
		if now.Sub(c.since) >= c.calm {
			c.search = route.Fit
			c.agree(peer, now, e)
		}
	}
}

// agree leaves packets to the network unless the other side does not. What the other
// side thinks is only hearsay: whoever reaches a probe pod can make it up. So when it
// is heard to go back, ours does not go over again before all was good for a while,
// which doubles, as after what was found by ourselves. That counts from then on, and
// not from when it was heard last, for which both sides would wait forever.
func (c *choice) agree(peer string, now time.Time, e evidence) {
	if e.against > 0 {
		if c.mode == route.Native {
			c.leave(now)
			c.search, c.since = route.Unfit, now
		}
		c.reason = "packets arrive unchanged both ways between probe pods, and " + peer + " keeps to its tunnel: see causeway status there"
		return
	}
	if c.mode != route.Native {
		c.mode, c.changed = route.Native, now
	}
	c.reason = fmt.Sprintf("packets arrive unchanged both ways on %d of %d ways between probe pods", e.good, e.paths)
}

// unfit goes back to the tunnel.
func (c *choice) unfit(now time.Time, reason string) {
	c.leave(now)
	c.search, c.since, c.reason = route.Unfit, time.Time{}, reason
}

// leave goes back to the tunnel, and notes how long it went well without.
func (c *choice) leave(now time.Time) {
	if c.mode != route.Native {
		return
	}
	if now.Sub(c.changed) >= calmLimit {
		c.calm = calmFirst
	} else {
		c.calm = min(2*c.calm, calmLimit)
	}
	c.mode = route.VXLAN
}

// why says what speaks against the network's own way.
func (e *evidence) why(peer string) string {
	switch {
	case e.nodes == 0:
		return "no agent has said yet what it finds"
	case e.trouble.Reason == reasonNoPeerPod:
		return "no probe pod in " + peer
	case e.trouble.Reason == reasonNoPod:
		return "no probe pod in this cluster"
	case e.trouble.Reason == "":
		return "not asked often enough yet"
	}
	text := ReasonNamed(e.trouble.Reason).Means
	if e.trouble.Detail != "" {
		text += ": " + e.trouble.Detail
	}
	text += ", from " + e.node
	if e.trouble.Node != "" {
		text += " to " + e.trouble.Node
	}
	return text
}
