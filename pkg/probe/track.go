package probe

import (
	"fmt"
	"net/netip"
	"time"
)

const (
	// failures in a row make a path unreachable.
	failures = 2
	// lossy is from which loss on a path is degraded. It is smoothed over some 16
	// questions.
	lossy     = 0.2
	lossShare = 1.0 / 16
	// rttShare is the weight of a new round-trip time, as in RFC 6298.
	rttShare = 1.0 / 8
	// lostMarks in a row mean that packets of pods do not arrive.
	lostMarks = 3
)

// round is what came of asking once.
type round struct {
	// from is the mesh address that was asked from.
	from netip.Addr
	// asked and answered count the small questions.
	asked, answered int
	rtt             time.Duration // of the first answer
	// seen is the source that the other side saw.
	seen netip.Addr
	// refused says that the other node has nobody who answers.
	refused bool
	// failed is why nothing could be sent.
	failed error
	// dropped is what our own programs dropped of it; the zero drop for nothing.
	dropped drop
	// device is the MTU of the tunnel device, and passes the largest that is
	// known to pass; 0 when that was not found out.
	device, passes int
	// pod is the address by which a packet was sent as a pod does, and marked the
	// source that the other side saw of it; either may be the zero Addr.
	// For a path between probe pods, pod is the other one, which sent by itself.
	pod, marked netip.Addr
	podDropped  drop
	// says is what the other side thinks of leaving packets to the network.
	says opinion
}

// drop is a packet that our own programs dropped.
type drop struct {
	reason string
	source netip.Addr // what it had by then
}

// track is what is known of a path. One without rounds knows nothing.
type track struct {
	native bool
	last   round
	rounds int
	// failed counts the latest rounds that had no answer, unmarked those in which
	// the pod's packet did not arrive while the node's did.
	failed, unmarked int
	// lost counts those of failed that say something of the way between probe pods:
	// both were there.
	lost int
	// narrow counts those in which not all sizes passed, of a path between probe pods.
	narrow int
	rtt    time.Duration
	loss   float64
}

// note takes a round into account.
func (t *track) note(r round) {
	t.rounds++
	if t.failed >= failures && r.answered > 0 {
		t.loss = 0 // the path has come back: what it lost while it was away is over
		r.asked = r.answered
	}
	for i := range r.asked {
		lost := 1.0
		if i < r.answered {
			lost = 0
		}
		t.loss += (lost - t.loss) * lossShare
	}
	if r.answered == 0 {
		t.failed++
		r.passes = 0
	} else {
		t.failed = 0
		if t.rtt == 0 {
			t.rtt = r.rtt
		}
		t.rtt += time.Duration(float64(r.rtt-t.rtt) * rttShare)
	}
	t.lost++
	if r.answered > 0 || r.refused || r.failed != nil {
		t.lost = 0
	}
	switch {
	case !r.pod.IsValid() || r.answered > 0 && r.marked.IsValid():
		t.unmarked = 0
	case r.answered > 0:
		t.unmarked++
	}
	t.narrow++
	if r.answered == 0 || r.passes >= r.device {
		t.narrow = 0
	}
	t.last = r
}

// state says how good the path is, and what is wrong with it, the worst first.
func (t *track) state() (State, []Trouble) {
	if t.native {
		return t.nativeState()
	}
	var troubles []Trouble
	add := func(reason, format string, args ...any) {
		troubles = append(troubles, Trouble{Reason: reason, Detail: fmt.Sprintf(format, args...)})
	}
	if t.failed > 0 {
		if t.failed < failures {
			return Pending, nil
		}
		t.silence(add)
		return Unreachable, troubles
	}
	if t.rounds == 0 {
		return Pending, nil
	}
	r := &t.last
	switch {
	case r.seen != r.from:
		add(reasonSource, "%s became %s", r.from, r.seen)
	case r.marked.IsValid() && r.marked != r.pod:
		add(reasonSource, "that of pod %s became %s", r.pod, r.marked)
	case t.unmarked >= lostMarks && r.podDropped.reason != "" && r.podDropped.source != r.pod:
		add(reasonSource, "that of pod %s became %s, and this node dropped it", r.pod, r.podDropped.source)
	case t.unmarked >= lostMarks && r.podDropped.reason != "":
		add(reasonPods, "this node dropped that of pod %s: %s", r.pod, r.podDropped.reason)
	case t.unmarked >= lostMarks:
		add(reasonPods, "of pod %s", r.pod)
	}
	if r.device > 0 && r.passes < r.device {
		add(reasonMTU, "%d bytes of %d", r.passes, r.device)
	}
	if t.loss >= lossy {
		add(reasonLoss, "%.0f %%", 100*t.loss)
	}
	if len(troubles) > 0 {
		return Degraded, troubles
	}
	return Reachable, nil
}

// silence says why nothing comes back.
func (t *track) silence(add func(reason, format string, args ...any)) {
	r := &t.last
	switch {
	case r.dropped.source.IsValid() && r.dropped.source != r.from:
		add(reasonSource, "%s became %s, and this node dropped it", r.from, r.dropped.source)
	case r.dropped.reason != "":
		add(reasonDropped, "%s", r.dropped.reason)
	case r.failed != nil:
		add(reasonSend, "%s", r.failed)
	case r.refused:
		add(reasonRefused, "")
	default:
		add(reasonSilent, "")
	}
}

// source says what the other side saw.
func (t *track) source() Source {
	r := &t.last
	if t.native && (r.answered == 0 || !r.marked.IsValid()) {
		return ""
	}
	changed := func(now, was netip.Addr) bool { return now.IsValid() && now != was }
	switch {
	case changed(r.seen, r.from), changed(r.dropped.source, r.from), changed(r.marked, r.pod), changed(r.podDropped.source, r.pod):
		return SourceChanged
	case r.answered > 0:
		return SourceKept
	}
	return ""
}
