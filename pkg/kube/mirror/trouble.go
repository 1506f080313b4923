package mirror

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// trouble is what the API server said to a service's objects last.
type trouble struct {
	// parts are by the cluster whose backends the objects hold.
	parts map[string]*failure
	told  string // what Refused was told last
}

// failure is why a cluster's objects are not what they are to be.
type failure struct {
	reason string // "" where nobody needs to know: an object changed meanwhile
	until  time.Time
	pause  retry.Backoff
}

// forget drops what was said of clusters of which a service has no part any more.
func (m *Mirror) forget(name service.Name, parts []*part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.troubles[name]
	if t == nil {
		return
	}
	maps.DeleteFunc(t.parts, func(cluster string, _ *failure) bool {
		return !slices.ContainsFunc(parts, func(p *part) bool { return p.cluster == cluster })
	})
}

// waits returns how long a cluster's objects are left alone, as they were refused.
func (m *Mirror) waits(name service.Name, cluster string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.troubles[name]; t != nil && t.parts[cluster] != nil {
		return time.Until(t.parts[cluster].until)
	}
	return 0
}

// accept notes that a cluster's objects are as they are to be.
func (m *Mirror) accept(name service.Name, cluster string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.troubles[name]; t != nil {
		delete(t.parts, cluster)
	}
}

// judge notes what became of a write that the API server answered: nil, or an error
// that is about these objects alone.
func (m *Mirror) judge(name service.Name, cluster string, err error) {
	if err == nil {
		m.accept(name, cluster)
		return
	}
	why, least := "", kube.RetryAfter(err)
	var others *foreign
	switch {
	case leaving(err):
		least = lastRetry
	case errors.As(err, &others):
		why = others.Error()
	case !changed(err):
		why = m.writer.Explain(err, Verbs).Error()
	}
	m.mu.Lock()
	t := m.troubles[name]
	if t == nil {
		t = &trouble{parts: make(map[string]*failure)}
		m.troubles[name] = t
	}
	f := t.parts[cluster]
	if f == nil {
		f = &failure{pause: retry.Backoff{First: firstRetry, Limit: lastRetry}}
		t.parts[cluster] = f
	}
	after := max(least, f.pause.Next())
	f.reason, f.until = why, time.Now().Add(after)
	m.mu.Unlock()
	m.again(name, after)
}

// reason says what is wrong with all parts, "" for nothing.
func (t *trouble) reason() string {
	var texts []string
	for _, cluster := range slices.Sorted(maps.Keys(t.parts)) {
		if why := t.parts[cluster].reason; why != "" {
			texts = append(texts, "those of "+cluster+": "+why)
		}
	}
	return strings.Join(texts, "; ")
}

// tell says what is refused of a service, when that has changed.
func (m *Mirror) tell(name service.Name, uid string) {
	m.mu.Lock()
	t := m.troubles[name]
	if t == nil {
		m.mu.Unlock()
		return
	}
	why, news := t.reason(), false
	if news = why != t.told; news {
		t.told = why
	}
	if len(t.parts) == 0 {
		delete(m.troubles, name)
	}
	m.mu.Unlock()
	if !news {
		return
	}
	if why != "" {
		m.cfg.Logger.Warn("mirrored endpoints of a service are refused, will retry", "service", name.String(), "error", why)
	}
	m.cfg.Refused(name, uid, why)
}

// fail notes that none of a service's objects can be written, for what is not about
// them: the others wait with it.
func (m *Mirror) fail(name service.Name, err error, held *holdup) {
	why := m.writer.Explain(err, Verbs).Error()
	held.set()
	wait := serverRetry
	if asked := kube.RetryAfter(err); asked > 0 {
		wait = min(asked, lastRetry)
	}
	m.again(name, wait)
	m.mu.Lock()
	if until := time.Now().Add(wait); apierrors.IsTooManyRequests(err) && until.After(m.quiet) {
		m.quiet = until
	}
	m.stuck[name] = why
	news := m.deny()
	m.mu.Unlock()
	if news {
		m.cfg.Logger.Warn("mirrored endpoints are not written, will retry; all else works", "error", why)
	}
}

// free notes that a service is held up by nothing but its own objects.
func (m *Mirror) free(name service.Name) {
	m.mu.Lock()
	delete(m.stuck, name)
	news := m.deny() && m.denied == ""
	m.mu.Unlock()
	if news {
		m.cfg.Logger.Info("mirrored endpoints are written again")
	}
}

// deny makes denied what holds some service up, and reports whether it says another
// thing then: what it said stays as long as that holds for one. With mu held.
func (m *Mirror) deny() (news bool) {
	first := ""
	for _, why := range m.stuck {
		if why == m.denied {
			return false
		}
		if first == "" || why < first {
			first = why
		}
	}
	news = first != m.denied
	m.denied = first
	return news
}

// rest forgets what kept objects from being written: another replica writes now, and
// knows. What was refused is looked at anew when this one does.
func (m *Mirror) rest() {
	m.mu.Lock()
	var told []service.Name
	for name, t := range m.troubles {
		if m.due[name] = (time.Time{}); t.told != "" {
			told = append(told, name)
		}
	}
	clear(m.troubles)
	clear(m.stuck)
	m.denied = ""
	m.mu.Unlock()
	for _, name := range told {
		m.cfg.Refused(name, "", "")
	}
}
