package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// The way by which the network carries packets of pods itself is tried between
// probe pods: that of this node asks in place of the agent, see Pod.

// errNoPod says that this node's probe pod does not answer, so nothing is known of
// the way.
var errNoPod = errors.New("this node's probe pod does not answer its agent")

// through is what it takes to ask by this node's probe pod.
type through struct {
	cookie       uint64
	mtu          int // of the pod's device, in bytes; 0 when it is not known
	asker, asked cluster.ID
	says         opinion
}

const (
	helloAttempts = 2
	helloTime     = time.Second
	// lostBack rounds in a row without the other pod's mark mean that what its side
	// sends by itself does not arrive; as many without a large packet that only small
	// ones do.
	lostBack = 2
)

// greet gets what it takes to ask by this node's probe pod.
func (a *asker) greet(ctx context.Context, n *Neighbours) error {
	defer func() { a.result.refused = false }() // that is about our pod
	for range helloAttempts {
		deadline := time.Now().Add(helloTime)
		if err := errors.Join(a.conn.SetReadDeadline(deadline), ctx.Err()); err != nil {
			return err
		}
		answer, err := a.send(ctx, message{kind: kindHello, token: a.token}.encode(podSize), kindCookie, deadline)
		if err != nil {
			return fmt.Errorf("%w: %w", errNoPod, err)
		}
		if answer != nil {
			a.through = through{cookie: answer.cookie, mtu: int(answer.number), asker: n.ID}
			for i := range n.Peers {
				if p := &n.Peers[i]; p.Cluster == a.target.cluster {
					a.through.asked, a.through.says = p.ID, p.says()
				}
			}
			a.result.pod = a.target.to
			return nil
		}
	}
	return errNoPod
}

// relayed returns the question that our probe pod asks in our place.
func (a *asker) relayed(size int) []byte {
	return message{
		kind: kindRelay, number: a.number, token: a.token, seen: a.target.to,
		cookie: a.through.cookie, asker: a.through.asker, asked: a.through.asked, says: a.through.says,
	}.encode(max(size, relaySize))
}

// nativeState is state of a path between probe pods. Where one of them is not there,
// nothing is known of the way.
func (t *track) nativeState() (State, []Trouble) {
	r := &t.last
	trouble := func(reason, format string, args ...any) []Trouble {
		return []Trouble{{Reason: reason, Detail: fmt.Sprintf(format, args...)}}
	}
	switch {
	case t.rounds == 0:
		return Pending, nil
	case r.failed != nil:
		return Pending, trouble(reasonMute, "%s", r.from)
	case t.failed > 0 && r.refused:
		return Pending, trouble(reasonAway, "")
	case t.lost >= failures:
		return Unreachable, trouble(reasonUnrouted, "")
	case t.failed > 0:
		return Pending, nil // a probe pod that is made anew is silent for a moment
	case r.seen != r.from:
		return Degraded, trouble(reasonMasquerade, "our %s became %s", r.from, r.seen)
	case r.marked.IsValid() && r.marked != r.pod:
		return Degraded, trouble(reasonMasquerade, "their %s became %s", r.pod, r.marked)
	case t.unmarked >= lostBack:
		return Degraded, trouble(reasonOneWay, "")
	case t.unmarked > 0 || t.narrow > 0 && t.narrow < lostBack:
		return Pending, nil
	case t.narrow > 0:
		return Degraded, trouble(reasonNarrow, "%d bytes of %d", r.passes, r.device)
	}
	return Reachable, nil
}

// summarizeNative says how the network itself carries packets to a peer.
func summarizeNative(n *Neighbours, p Peer, paths []path) Summary {
	s := Summary{Cluster: p.Cluster, Mode: route.Native, Nodes: len(p.Nodes), Spare: p.Mode != route.Native}
	if len(paths) == 0 {
		s.Troubles = []Trouble{{Reason: untried(n, p)}}
		return s
	}
	s.count(paths)
	for i := range paths {
		if paths[i].track.failed == 0 && paths[i].track.last.says == against {
			s.Against++
		}
	}
	return s
}

// untried says why there is no path between probe pods.
func untried(n *Neighbours, p Peer) string {
	switch {
	case len(p.Probes) == 0:
		return reasonNoPeerPod
	case len(n.Probes) == 0:
		return reasonNoPod
	}
	return reasonPodFamily
}
