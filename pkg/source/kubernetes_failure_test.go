package source

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

const allKinds = "namespaces, nodes, pods, services, endpointslices"

// TestKubernetesSurvives takes a control plane through what can become of one, in a
// row since each start costs seconds: nothing but what the API server says at the
// end is ever taken away.
func TestKubernetesSurvives(t *testing.T) {
	t.Parallel()
	plane := kubelab.Start(t, kubelab.Config{})
	apply(t, plane, namespace("shop")+"---\n"+podIn("shop", "a"))
	r := startKubernetes(t, apiSource{kubeconfig: plane.Kubeconfig()})
	r.untilComplete()
	r.untilIn("shop", "Pod shop/a")
	r.take()

	t.Log("it dies, and comes back")
	plane.KillAPIServer()
	r.untilAllFail("cannot be reached", "what was read before stays in effect")
	restart(t, plane)
	apply(t, plane, podIn("shop", "b"))
	r.untilIn("shop", "Pod shop/a", "Pod shop/b")
	r.untilNoProblem()
	if gone := r.takeGone("shop"); len(gone) > 0 {
		t.Errorf("a restart took away %v", gone)
	}

	t.Log("an earlier state of it is put back")
	saved, err := plane.Save()
	if err != nil {
		t.Fatal(err)
	}
	apply(t, plane, podIn("shop", "later")+"---\n"+namespace("later"))
	r.untilIn("shop", "Pod shop/a", "Pod shop/b", "Pod shop/later")
	if err := plane.Restore(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	r.untilIn("shop", "Pod shop/a", "Pod shop/b")
	apply(t, plane, podIn("shop", "c")) // a revision that it had once already
	r.untilIn("shop", "Pod shop/a", "Pod shop/b", "Pod shop/c")
	r.untilNoProblem()

	t.Log("what is resumed from is compacted away: 410 Gone")
	cut := startProxy(t, plane)
	late := startKubernetes(t, apiSource{kubeconfig: cut.Kubeconfig})
	late.untilIn("shop", "Pod shop/a", "Pod shop/b", "Pod shop/c")
	late.take()
	cut.close()
	late.untilAllFail("cannot be reached")
	kubectl(t, plane, "delete", "pod", "-n", "shop", "a", "--grace-period=0", "--force")
	apply(t, plane, podIn("shop", "d"))
	plane.KillAPIServer()
	if err := plane.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	restart(t, plane)
	cut.open()
	late.untilIn("shop", "Pod shop/b", "Pod shop/c", "Pod shop/d")
	late.untilNoProblem()
	if gone := late.takeGone("shop"); !slices.Equal(gone, []string{"-Pod shop/a"}) {
		t.Errorf("a new listing took away %v, want the pod that is gone", gone)
	}
	r.untilIn("shop", "Pod shop/b", "Pod shop/c", "Pod shop/d")

	t.Log("an earlier state is put back, and has come to later revisions when it is seen again")
	if saved, err = plane.Save(); err != nil {
		t.Fatal(err)
	}
	apply(t, plane, podIn("shop", "e"))
	late.untilIn("shop", "Pod shop/b", "Pod shop/c", "Pod shop/d", "Pod shop/e")
	cut.close()
	late.untilAllFail("cannot be reached")
	since := time.Now()
	if err := plane.Restore(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	var later strings.Builder // more changes than there were after it was saved
	for i := range 30 {
		later.WriteString("---\n" + namespace(fmt.Sprintf("later-%d", i)))
	}
	apply(t, plane, later.String())
	late.until("that it is away for more than a moment", func() bool { return time.Since(since) > 10*time.Second })
	cut.open()
	late.untilIn("shop", "Pod shop/b", "Pod shop/c", "Pod shop/d")
	late.untilNoProblem()
}

func restart(t *testing.T, plane *kubelab.ControlPlane) {
	t.Helper()
	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// takeGone returns what was taken away of a namespace since changes were taken last.
func (r *run) takeGone(namespace string) []string {
	return slices.DeleteFunc(r.take(), func(change string) bool {
		return !strings.HasPrefix(change, "-") || !strings.Contains(change, " "+namespace+"/")
	})
}

// untilAllFail waits until problems that say all of this hold up every kind: what
// each connection met may differ.
func (r *run) untilAllFail(texts ...string) {
	r.t.Helper()
	r.until(fmt.Sprintf("problems with %q of all kinds", texts), func() bool {
		var kinds []string
		for _, p := range r.Problems() {
			if containsAll(p.Message, texts) {
				kinds = append(kinds, strings.Split(p.File, ", ")...)
			}
		}
		return len(kinds) == len(Kinds())
	})
}

// proxy stands between a source and an API server and can do what networks and
// overloaded API servers do.
type proxy struct {
	*kubelab.Proxied

	mu       sync.Mutex
	closed   bool
	throttle bool
	// unstreamed has listings come in pages of two, as from an API server that
	// cannot stream them.
	unstreamed bool
	// cut has streamed listings of namespaces end after their first object.
	cut     bool
	refused int // requests that were answered with 429
	pages   int
}

// startProxy puts one in front of a control plane.
func startProxy(t *testing.T, plane *kubelab.ControlPlane) *proxy {
	t.Helper()
	p := &proxy{}
	p.Proxied = kubelab.Proxy(t, plane, func(w http.ResponseWriter, request *http.Request) http.ResponseWriter {
		if !p.answer(w, request) {
			return nil
		}
		return p.writer(w, request)
	})
	return p
}

// answer answers a request, or says that the API server shall.
func (p *proxy) answer(w http.ResponseWriter, request *http.Request) (forward bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	query := request.URL.Query()
	switch {
	case p.closed:
		panic(http.ErrAbortHandler) // cuts the connection
	case p.throttle:
		p.refused++
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return false
	case p.unstreamed && query.Get("sendInitialEvents") == "true":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"}`)
		return false
	case p.unstreamed && query.Get("limit") == "500":
		p.pages++
		query.Set("limit", "2")
		request.URL.RawQuery = query.Encode()
	}
	return true
}

// writer returns what the API server's answer is written to.
func (p *proxy) writer(w http.ResponseWriter, request *http.Request) http.ResponseWriter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut && request.URL.Path == "/api/v1/namespaces" && request.URL.Query().Get("sendInitialEvents") == "true" {
		return &firstFrame{ResponseWriter: w}
	}
	return w
}

// firstFrame lets the first event of a watch through, four bytes of length and then
// the event, and cuts the connection.
type firstFrame struct {
	http.ResponseWriter
	held []byte
}

func (f *firstFrame) Write(b []byte) (int, error) {
	f.held = append(f.held, b...)
	if len(f.held) < 4 {
		return len(b), nil
	}
	end := 4 + int(binary.BigEndian.Uint32(f.held))
	if len(f.held) < end {
		return len(b), nil
	}
	if _, err := f.ResponseWriter.Write(f.held[:end]); err == nil {
		_ = http.NewResponseController(f.ResponseWriter).Flush()
	}
	panic(http.ErrAbortHandler)
}

func (f *firstFrame) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// set changes how requests are answered from now on.
func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *proxy) count(of *int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *of
}

// close cuts all connections, and those that come.
func (p *proxy) close() {
	p.set(func() { p.closed = true })
	p.Cut()
}

func (p *proxy) open() { p.set(func() { p.closed = false }) }

// TestKubernetesThrottled checks that an API server that has us wait, at the start
// or later, costs time and nothing else.
func TestKubernetesThrottled(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	ns := newNamespace(t, plane, "throttled")
	apply(t, plane, podIn(ns, "a"))
	p := startProxy(t, plane)
	p.set(func() { p.throttle = true })
	r := startKubernetes(t, apiSource{kubeconfig: p.Kubeconfig})
	problem := r.untilProblem(allKinds, "too many requests", "nothing is published or withdrawn before all kinds have been read")
	if since := time.Since(problem.Since); since < 0 || since > timeout {
		t.Errorf("a problem since %v", problem.Since)
	}
	if r.isComplete() || len(r.names()) > 0 {
		t.Errorf("the sink was given %v, complete %v", r.names(), r.isComplete())
	}
	p.set(func() { p.throttle = false })
	r.untilComplete()
	r.untilIn(ns, "Pod "+ns+"/a")

	before := p.count(&p.refused)
	p.set(func() { p.throttle = true })
	p.Cut()
	r.untilProblem(allKinds, "too many requests", "what was read before stays in effect")
	apply(t, plane, podIn(ns, "b"))
	r.until("a second request that is refused", func() bool { return p.count(&p.refused) > before+5 })
	if got := r.inNamespace(ns); !slices.Equal(got, []string{"Pod " + ns + "/a"}) {
		t.Errorf("objects %v", got)
	}
	p.set(func() { p.throttle = false })
	r.untilIn(ns, "Pod "+ns+"/a", "Pod "+ns+"/b")
	r.untilNoProblem()
}

// TestKubernetesCutListing checks that a person is told of listings that always end
// half-way, and that nothing is made of the half.
func TestKubernetesCutListing(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	ns := newNamespace(t, plane, "cut")
	apply(t, plane, podIn(ns, "a"))
	p := startProxy(t, plane)
	p.set(func() { p.cut = true })
	r := startKubernetes(t, apiSource{kubeconfig: p.Kubeconfig})
	r.untilProblem("namespaces", "the connection ended before the listing was whole", "nothing is published or withdrawn before all kinds have been read")
	if r.isComplete() || len(r.names()) > 0 {
		t.Errorf("the sink was given %v, complete %v", r.names(), r.isComplete())
	}
	p.set(func() { p.cut = false })
	r.untilComplete()
	r.untilNoProblem()
	r.untilIn(ns, "Pod "+ns+"/a")
}

// TestKubernetesUnstreamed checks that an API server that streams no listings is
// read in pages, and that a page more or less makes no object more or less.
func TestKubernetesUnstreamed(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	ns := newNamespace(t, plane, "unstreamed")
	var pods, want []string
	for i := range 7 {
		pods = append(pods, podIn(ns, fmt.Sprint("p", i)))
		want = append(want, fmt.Sprintf("Pod %s/p%d", ns, i))
	}
	apply(t, plane, strings.Join(pods, "---\n"))
	p := startProxy(t, plane)
	p.set(func() { p.unstreamed = true })
	r := startKubernetes(t, apiSource{kubeconfig: p.Kubeconfig})
	r.untilComplete()
	r.untilIn(ns, want...)
	if pages := p.count(&p.pages); pages < 4 {
		t.Errorf("%d pages were asked for, want those of seven pods at least", pages)
	}
	apply(t, plane, podIn(ns, "p7"))
	r.untilIn(ns, append(want, "Pod "+ns+"/p7")...)
	r.untilNoProblem()
}
