package probe

import (
	"container/list"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// answerRate is how many messages a second are looked at, of all together and
	// of one node. A node is asked by some nodes of each peer, each of which
	// asks a few times in 10 s, and more often while it looks for the MTU.
	answerRate  = 5000
	sourceRate  = 50
	sourceBurst = 100
	// maxMarks bounds what is remembered, maxSources for whom.
	maxMarks   = 1024
	maxSources = 16384
)

// answerer says what to answer; it does no I/O. It is safe for concurrent use.
type answerer struct {
	metrics *metrics

	mu sync.Mutex
	// known are the mesh addresses of peers' nodes.
	known   map[netip.Addr]*rate.Limiter
	all     *rate.Limiter
	marks   map[uint64]*list.Element
	history list.List // of mark, the oldest first
}

type mark struct {
	token uint64
	from  netip.Addr
}

func newAnswerer(m *metrics) *answerer {
	return &answerer{
		metrics: m, known: map[netip.Addr]*rate.Limiter{}, marks: map[uint64]*list.Element{}, all: rate.NewLimiter(answerRate, answerRate),
	}
}

// know replaces who is answered.
func (a *answerer) know(n *Neighbours) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := map[netip.Addr]*rate.Limiter{}
	for _, p := range n.Peers {
		for _, node := range p.Nodes {
			for _, ip := range node.Mesh {
				if known[ip] = a.known[ip]; known[ip] == nil && len(known) <= maxSources {
					known[ip] = rate.NewLimiter(sourceRate, sourceBurst)
				}
			}
		}
	}
	a.known = known
}

// take returns the answer to what came from an address, nil for none.
func (a *answerer) take(from netip.Addr, data []byte) []byte {
	m, ok := decode(data)
	if !ok || m.kind != kindAsk && m.kind != kindMark {
		a.metrics.answered("malformed")
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.all.Allow() {
		a.metrics.answered("rate")
		return nil
	}
	if m.kind == kindMark {
		a.remember(mark{m.token, from})
		a.metrics.answered("marked")
		return nil
	}
	limit := a.known[from]
	switch {
	case limit == nil:
		a.metrics.answered("stranger")
		return nil
	case !limit.Allow():
		a.metrics.answered("rate")
		return nil
	}
	a.metrics.answered("answered")
	answer := message{kind: kindAnswer, number: m.number, token: m.token, seen: from}
	if e := a.marks[m.token]; e != nil {
		answer.marked = e.Value.(mark).from
	}
	return answer.encode(messageSize)
}

// remember keeps a mark instead of the oldest. A pod of a peer can send marks, and
// make others' be forgotten: then nothing is known of these.
func (a *answerer) remember(m mark) {
	if a.marks[m.token] != nil {
		return
	}
	a.marks[m.token] = a.history.PushBack(m)
	if a.history.Len() > maxMarks {
		oldest := a.history.Front()
		delete(a.marks, a.history.Remove(oldest).(mark).token)
	}
}
