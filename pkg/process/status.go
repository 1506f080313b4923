package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// StatusConfig is what NewStatus needs.
type StatusConfig struct {
	// Listen is host:port of the status server; "" means none.
	Listen string
	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer
	// Profiles adds the Go runtime's profiles at /debug/pprof/. Making one costs
	// the daemon time, and it shows what the daemon does.
	Profiles bool
	Logger   *slog.Logger
}

// Status is a daemon's answer to those who watch it, over plain HTTP: /healthz
// says that the process runs, /readyz whether all its conditions hold and why
// not, /metrics what its registry gathers. Its methods may be called from any
// goroutine.
type Status struct {
	config    StatusConfig
	listening chan struct{}

	mu         sync.Mutex
	addr       net.Addr
	conditions []*Condition
}

// NewStatus returns a Status that serves once Run is called. Without any
// condition it is ready.
func NewStatus(c StatusConfig) *Status {
	return &Status{config: c, listening: make(chan struct{})}
}

// Condition adds something that must hold before the daemon is ready. It does
// not hold until SetReady is called; /readyz shows them in the order in which
// they were added.
func (s *Status) Condition(name string) *Condition {
	c := &Condition{name: name, reason: "starting"}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions = append(s.conditions, c)
	return c
}

// Listening is closed once the server listens; Addr is known from then on. It
// is never closed when there is no address to listen on.
func (s *Status) Listening() <-chan struct{} { return s.listening }

// Addr returns the address on which the server listens, nil before it does.
func (s *Status) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Ready returns nil when all conditions hold, else an error that names those
// which do not, with their reasons.
func (s *Status) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []error
	for _, c := range s.conditions {
		if reason := c.state(); reason != "" {
			missing = append(missing, fmt.Errorf("%s: %s", c.name, reason))
		}
	}
	return errors.Join(missing...)
}

// Run serves until ctx is done. It returns an error when it cannot listen or
// the listener breaks.
func (s *Status) Run(ctx context.Context) error {
	if s.config.Listen == "" {
		<-ctx.Done()
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.config.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("status server: another process has the port, perhaps a second one of these; end it or choose another --listen-http: %w", err)
	}
	if err != nil {
		return fmt.Errorf("status server: %w", err)
	}
	s.mu.Lock()
	s.addr = listener.Addr()
	s.mu.Unlock()
	close(s.listening)
	s.config.Logger.Info("status server listens", "address", listener.Addr().String())

	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
	// Those who watch can bear a cut answer: the end waits for none of them.
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		_ = listener.Close()
		return fmt.Errorf("status server on %s: %w", s.config.Listen, err)
	}
	return nil
}

func (s *Status) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "ok\n")
	})
	mux.HandleFunc("GET /readyz", s.serveReady)
	if s.config.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.config.Gatherer, promhttp.HandlerOpts{
			MaxRequestsInFlight: 4,
			Timeout:             20 * time.Second,
		}))
	}
	if s.config.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (s *Status) serveReady(w http.ResponseWriter, _ *http.Request) {
	var text strings.Builder
	code := http.StatusOK
	s.mu.Lock()
	for _, c := range s.conditions {
		if reason := c.state(); reason != "" {
			code = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "%s: not ready: %s\n", c.name, reason)
		} else {
			fmt.Fprintf(&text, "%s: ready\n", c.name)
		}
	}
	s.mu.Unlock()
	if code == http.StatusOK {
		text.WriteString("ready\n")
	}
	writeText(w, code, text.String())
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // the client has gone: nobody is left to tell
}

// Condition is one thing that must hold before a daemon is ready.
type Condition struct {
	name   string
	mu     sync.Mutex
	reason string
}

// SetReady says that the condition holds.
func (c *Condition) SetReady() { c.set("") }

// SetNotReady says that the condition does not hold, and why.
func (c *Condition) SetNotReady(reason string) {
	if reason == "" {
		reason = "no reason given"
	}
	c.set(reason)
}

func (c *Condition) set(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = reason
}

func (c *Condition) state() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// ConditionState is a Condition as it stands.
type ConditionState struct {
	Name string
	// Reason says why it does not hold; "" when it does.
	Reason string
}

// Conditions returns the conditions in the order in which they were added.
func (s *Status) Conditions() []ConditionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ConditionState, 0, len(s.conditions))
	for _, c := range s.conditions {
		out = append(out, ConditionState{Name: c.name, Reason: c.state()})
	}
	return out
}
