// Package preflight looks at a node before anything of Causeway runs on it: what
// the kernel can do, who else has programs where ours go, and what in the node's
// network would be in the way. It changes nothing.
//
// Looking and judging are apart: Look collects facts, and findings are a pure
// function of them.
package preflight

import (
	"context"
	"net/netip"
)

// Level says how much a finding matters.
type Level string

// The levels, from the least.
const (
	// Fine is what is as it should be.
	Fine Level = "ok"
	// Note is what an operator wants to know, and nothing has to be done about.
	Note Level = "note"
	// Limit is what some of the mesh does not work with.
	Limit Level = "limit"
	// Fail is what nothing works with.
	Fail Level = "fail"
)

// Finding is what was found out about one thing.
type Finding struct {
	// Check names the thing, one of a few words.
	Check string `json:"check"`
	Level Level  `json:"level"`
	// What is a sentence. Do, where there is anything to do, says what to change.
	What string `json:"what"`
	Do   string `json:"do,omitempty"`
}

// Report is all that was found out about a node.
type Report struct {
	Node     string    `json:"node,omitempty"`
	Findings []Finding `json:"findings"`
}

// Worst returns the highest level among the findings.
func (r *Report) Worst() Level {
	worst := Fine
	for _, f := range r.Findings {
		if f.Level.above(worst) {
			worst = f.Level
		}
	}
	return worst
}

func (l Level) above(other Level) bool {
	rank := map[Level]int{Fine: 0, Note: 1, Limit: 2, Fail: 3}
	return rank[l] > rank[other]
}

// Config says what a node is looked at for.
type Config struct {
	// Node is the name that the report gets.
	Node string
	// BPFFS is the folder where the agent will pin what stays in the kernel.
	BPFFS string
	// Cgroup is the cgroup v2 folder above all workloads, found when "".
	Cgroup string
	// Port is the UDP port of the tunnels, Device their device's name.
	Port   uint16
	Device string
	// Gateways are host:port of other clusters, tried by TCP.
	Gateways []string
	// Nodes are addresses of other clusters' nodes. They are tried by TCP, at a port
	// where a kubelet would answer: a refusal is an answer, too; and by UDP at Port.
	Nodes []netip.Addr
}

// Look looks at the node, in the network namespace of the calling thread. What can
// not be found out is a finding. It needs the rights of the agent, and takes 3 s
// at most when nothing answers.
func Look(ctx context.Context, c Config) *Report {
	return &Report{Node: c.Node, Findings: judge(c, observe(ctx, c))}
}
