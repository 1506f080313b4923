package observe

import (
	"context"
	"sync"
)

// tap is where a Server of the same process gets an Agent's events from.
type tap struct {
	queue []Event
	lost  uint64
	some  chan struct{} // has one element when there is something in it
}

func (t *tap) add(e Event) {
	if len(t.queue) >= agentQueue {
		t.lost++
	} else {
		t.queue = append(t.queue, e)
	}
	select {
	case t.some <- struct{}{}:
	default:
	}
}

// Attend lets those who listen to the server see the events of an agent of the same
// process, the one of the node, while that has a source, until ctx ends. One server
// attends an agent at a time.
func (s *Server) Attend(ctx context.Context, node string, a *Agent) {
	for a.until(ctx, true) {
		s.attend(ctx, node, a)
	}
}

// attend does so until the agent has no source any more.
func (s *Server) attend(ctx context.Context, node string, a *Agent) {
	ctx, end := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer end(nil)
	group.Go(func() {
		a.until(ctx, false)
		end(errOff)
	})
	some := a.open()
	defer a.shut()
	it := &agent{node: node, end: end, changed: make(chan struct{}, 1)}
	s.join(it)
	defer s.leave(it)
	for {
		s.pass(it, a)
		select {
		case <-it.changed:
		case <-some:
		case <-ctx.Done():
			return
		}
	}
}

// pass gives listeners what the agent has noted since the last time, and what it
// remembers to those who ask for it.
func (s *Server) pass(it *agent, a *Agent) {
	var recalls []recall
	for _, r := range s.wanted(it).GetRecalls() {
		if filter, err := filterFromProto(r.GetFilter()); err == nil { // this process made it
			recalls = append(recalls, recall{r.GetId(), filter, int(min(r.GetLast(), Remembered))})
		}
	}
	events, lost, answers := a.drain(recalls)
	if (len(events) > 0 || lost > 0) && s.isWanted(it.node, 0) {
		s.give(it.node, 0, s.names.resolve(it.node, events), lost)
	}
	for i, r := range recalls {
		s.give(it.node, r.id, s.names.resolve(it.node, answers[i]), 0)
	}
}

// open has events wait for drain; shut ends that.
func (a *Agent) open() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tap = &tap{some: make(chan struct{}, 1)}
	return a.tap.some
}

func (a *Agent) shut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tap = nil
}

// drain takes what waits, and what is remembered, as of one moment: as with pending,
// what comes before an answer is in the answer.
func (a *Agent) drain(recalls []recall) (events []Event, lost uint64, answers [][]Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	events, lost = a.tap.queue, a.tap.lost
	a.tap.queue, a.tap.lost = nil, 0
	for _, r := range recalls {
		answers = append(answers, a.past.newest(r.filter, r.last))
	}
	return events, lost, answers
}
