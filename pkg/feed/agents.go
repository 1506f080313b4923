package feed

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// goneFor is how long an agent that left is still listed.
const goneFor = time.Hour

// errReplaced ends a stream whose node has a newer one.
var errReplaced = errors.New("the node subscribed again on another connection")

// agents is who is subscribed, one stream a node. Node names come from
// certificates, which bounds it.
type agents struct {
	mu     sync.Mutex
	byNode map[string]*agent
}

// agent is one stream of a node, or its last.
type agent struct {
	status AgentStatus
	known  kindSet
	end    context.CancelCauseFunc
}

func newAgents() *agents { return &agents{byNode: map[string]*agent{}} }

// join makes a stream the one of its node and ends an older one: when a
// connection was cut, the server may see the new one before it misses the old.
func (a *agents) join(node, version string, known kindSet, end context.CancelCauseFunc, now time.Time) (joined *agent, replaced bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sweep(now)
	if old := a.byNode[node]; old != nil && old.status.Connected {
		old.end(errReplaced)
		replaced = true
	}
	joined = &agent{known: known, end: end, status: AgentStatus{Node: node, Version: version, Connected: true, Since: now}}
	a.byNode[node] = joined
	return joined, replaced
}

// leave says that a stream has ended. What its agent last applied stays listed.
func (a *agents) leave(g *agent, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g.status.Connected, g.status.Since = false, now
}

// applied takes what an agent says.
func (a *agents) applied(g *agent, applied Applied) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g.status.Applied = applied
}

// list returns all that are connected or left less than goneFor ago, by node;
// current says of one what it has applied and knows of.
func (a *agents) list(now time.Time, current func(Applied, kindSet) bool) []AgentStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sweep(now)
	out := make([]AgentStatus, 0, len(a.byNode))
	for _, g := range a.byNode {
		status := g.status
		status.Current = status.Connected && current(status.Applied, g.known)
		out = append(out, status)
	}
	slices.SortFunc(out, func(x, y AgentStatus) int { return cmp.Compare(x.Node, y.Node) })
	return out
}

func (a *agents) sweep(now time.Time) {
	for node, g := range a.byNode {
		if !g.status.Connected && now.Sub(g.status.Since) > goneFor {
			delete(a.byNode, node)
		}
	}
}
