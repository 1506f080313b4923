package source

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Problem is something about a source that a person has to put right, or to wait for.
type Problem struct {
	File    string    // relative to the directory, "." for the directory itself; or what of the Kubernetes API: "pods, nodes"
	Line    int       // 1 and up; 0 when it is about the file as a whole
	Message string    // what is wrong, what that means, and what to do
	Since   time.Time // when it was first seen
}

// report makes the list of problems anew and logs those that came or went.
func (m *Manifests) report(found *survey, now time.Time) {
	problems := m.table.duplicates()
	for name, err := range found.failed {
		p := Problem{File: name, Message: err.Error()}
		if f := m.files[name]; f != nil {
			p.Message += m.consequence(f)
		} else {
			p.Message += "; what was read below it before stays in effect"
			if !m.complete {
				p.Message += ", and nothing else is pruned until this is put right"
			}
		}
		problems = append(problems, p)
	}
	for name, f := range m.files {
		if !found.hidden(name) {
			problems = append(problems, m.troublesOf(name, f, now)...)
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Message, b.Message))
	})
	m.publish(problems, now)
}

func (m *Manifests) troublesOf(name string, f *file, now time.Time) []Problem {
	var problems []Problem
	if f.trouble != nil {
		problems = append(problems, Problem{File: name, Line: f.trouble.line, Message: f.trouble.message + m.consequence(f)})
	}
	if f.notKept != nil {
		problems = append(problems, Problem{File: name, Message: fmt.Sprintf(
			"its content is in effect, but cannot be kept for a restart: %v", f.notKept)})
	}
	if !f.unsettled.IsZero() && now.Sub(f.unsettled) > unsettledTime {
		problems = append(problems, Problem{File: name, Message: fmt.Sprintf(
			"the file has been changing without a pause of %v and is not read: write it elsewhere and move it here", settleTime)})
	}
	return problems
}

// consequence says what is in effect in place of what a file holds.
func (m *Manifests) consequence(f *file) string {
	switch {
	case f.known && !f.kept.IsZero():
		return fmt.Sprintf("; its last good content, kept at %s, stays in effect", f.kept.UTC().Format(time.RFC3339))
	case f.known:
		return "; its last good content stays in effect"
	case m.complete || m.accounted(f):
		return "; there is no earlier good content, so nothing is taken from it"
	default:
		return "; there is no earlier good content, so nothing is taken from it, and nothing that it may have held is pruned until it is put right"
	}
}

// publish makes the sorted problems the current ones. One that stays keeps its time.
func (m *Manifests) publish(problems []Problem, now time.Time) {
	type identity struct {
		file, message string
		line          int
	}
	before := make(map[identity]Problem, len(m.problems))
	for _, p := range m.problems { // written by this goroutine alone
		before[identity{p.File, p.Message, p.Line}] = p
	}
	for i := range problems {
		p := &problems[i]
		id := identity{p.File, p.Message, p.Line}
		if old, ok := before[id]; ok {
			p.Since = old.Since
			delete(before, id)
			continue
		}
		p.Since = now
		m.cfg.Logger.Warn("manifest has a problem", "dir", m.cfg.Dir, "file", p.File, "line", p.Line, "problem", p.Message)
	}
	for _, p := range before {
		m.cfg.Logger.Info("manifest's problem is over", "dir", m.cfg.Dir, "file", p.File, "line", p.Line, "problem", p.Message)
	}
	m.metrics.problems.Set(float64(len(problems)))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problems = problems
}
