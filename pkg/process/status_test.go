package process

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// startStatus runs a status server on a free port until the test ends.
func startStatus(t *testing.T, gatherer prometheus.Gatherer) (*Status, string) {
	t.Helper()
	status := NewStatus(StatusConfig{Listen: "127.0.0.1:0", Gatherer: gatherer, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- status.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	select {
	case <-status.Listening():
	case <-time.After(60 * time.Second):
		t.Fatal("the server does not listen after 60 s")
	}
	return status, "http://" + status.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestStatus(t *testing.T) {
	status, url := startStatus(t, NewRegistry("test"))
	if code, body := get(t, url+"/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
	if code, body := get(t, url+"/readyz"); code != 200 || body != "ready\n" {
		t.Errorf("readyz without conditions: %d %q", code, body)
	}

	maps, feed := status.Condition("maps"), status.Condition("feed")
	maps.SetReady()
	if code, body := get(t, url+"/readyz"); code != 503 || body != "maps: ready\nfeed: not ready: starting\n" {
		t.Errorf("readyz with one of two: %d %q", code, body)
	}
	if err := status.Ready(); err == nil || err.Error() != "feed: starting" {
		t.Errorf("Ready: %v", err)
	}
	feed.SetReady()
	if code, body := get(t, url+"/readyz"); code != 200 || body != "maps: ready\nfeed: ready\nready\n" {
		t.Errorf("readyz with both: %d %q", code, body)
	}
	if err := status.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
	feed.SetNotReady("")
	if code, body := get(t, url+"/readyz"); code != 503 || !strings.Contains(body, "feed: not ready: no reason given") {
		t.Errorf("readyz taken back: %d %q", code, body)
	}

	code, body := get(t, url+"/metrics")
	for _, want := range []string{`causeway_build_info{`, `program="test"`, "go_goroutines", "process_open_fds"} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("metrics: %d, %q is missing", code, want)
		}
	}
	if code, _ := get(t, url+"/debug/pprof/"); code != 404 {
		t.Errorf("a page that nobody offered: %d", code)
	}
}

func TestStatusWithoutMetrics(t *testing.T) {
	_, url := startStatus(t, nil)
	if code, _ := get(t, url+"/metrics"); code != 404 {
		t.Errorf("metrics: %d, want 404", code)
	}
}

func TestProfiles(t *testing.T) {
	for _, on := range []bool{false, true} {
		handler := NewStatus(StatusConfig{Profiles: on}).handler()
		for _, path := range []string{"/debug/pprof/heap", "/debug/pprof/profile?seconds=1"} {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
			want := http.StatusNotFound
			if on {
				want = http.StatusOK
			}
			if answer.Code != want {
				t.Errorf("%s with profiles %t: status %d, want %d", path, on, answer.Code, want)
			}
		}
	}
}

func TestStatusConcurrently(t *testing.T) {
	status, url := startStatus(t, nil)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 50 {
				condition := status.Condition("some")
				condition.SetNotReady("why")
				_ = status.Ready()
				condition.SetReady()
			}
		})
	}
	group.Wait()
	if code, _ := get(t, url+"/readyz"); code != 200 {
		t.Errorf("readyz: %d", code)
	}
}

func TestStatusPortInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	status := NewStatus(StatusConfig{Listen: listener.Addr().String(), Logger: slog.New(slog.DiscardHandler)})
	err = status.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), listener.Addr().String()) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error %v, want one that names the address in use", err)
	}
}

func TestStatusDisabled(t *testing.T) {
	status := NewStatus(StatusConfig{Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := status.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	if status.Addr() != nil {
		t.Errorf("it listens on %v", status.Addr())
	}
}
