package peer

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

func TestState(t *testing.T) {
	config := &cluster.Config{Name: "west", ID: 2, Size: 255}
	broken := errors.New("connection refused")
	for _, tc := range []struct {
		name  string
		facts facts
		want  State
		why   string
	}{
		{"nothing yet", facts{}, Connecting, ""},
		{"no certificate", facts{setup: broken}, Connecting, "connection refused"},
		{"never answered", facts{trouble: broken}, Connecting, "connection refused"},
		{"answered, no config", facts{answered: true}, Waiting, "no cluster config"},
		{"refused", facts{answered: true, config: config, verdict: ErrOwnID}, Refused, "cluster's id"},
		{"a config that does not parse", facts{answered: true, verdict: broken}, Refused, "connection refused"},
		{"no marker", facts{answered: true, config: config, missing: "nodes"}, Waiting, "nodes"},
		{"listing", facts{answered: true, config: config}, Listing, ""},
		{"synced", facts{answered: true, config: config, complete: true}, Synced, ""},
		{"answers, and what it publishes is not followed", facts{answered: true, config: config, complete: true, behind: broken}, Disconnected, "connection refused"},
		{"lost", facts{answered: true, config: config, complete: true, trouble: broken}, Disconnected, "connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why := tc.facts.state()
			if got != tc.want || !strings.Contains(why, tc.why) {
				t.Errorf("got %s (%s), want %s (%s)", got, why, tc.want, tc.why)
			}
		})
	}
}

func TestAccept(t *testing.T) {
	ours := cluster.Config{Name: "east", ID: 1, Size: cluster.Size255}
	for _, tc := range []struct {
		name   string
		theirs cluster.Config
		want   error
	}{
		{"a member", cluster.Config{Name: "west", ID: 2, Size: 255}, nil},
		{"the last id", cluster.Config{Name: "west", ID: 255, Size: 255}, nil},
		{"id 0", cluster.Config{Name: "west", ID: 0, Size: 255}, cluster.ErrID},
		{"id 256", cluster.Config{Name: "west", ID: 256, Size: 255}, cluster.ErrID},
		{"our id", cluster.Config{Name: "west", ID: 1, Size: 255}, ErrOwnID},
		{"another size", cluster.Config{Name: "west", ID: 2, Size: 511}, ErrMeshSize},
		{"no size", cluster.Config{Name: "west", ID: 2, Size: 100}, cluster.ErrSize},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := accept(ours, tc.theirs); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestRegistry(t *testing.T) {
	r := newRegistry()
	if err := r.claim(2, "west"); err != nil {
		t.Fatal(err)
	}
	if err := r.claim(2, "west"); err != nil {
		t.Errorf("the holder claims again: %v", err)
	}
	if err := r.claim(2, "south"); !errors.Is(err, ErrIDTaken) || !strings.Contains(err.Error(), "west") {
		t.Errorf("a second holder: %v", err)
	}
	freed := r.freed()
	if err := r.claim(3, "west"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-freed:
	default:
		t.Error("id 2 became free and nobody was told")
	}
	if err := r.claim(2, "south"); err != nil {
		t.Errorf("an id that was given back: %v", err)
	}
	r.release("south")
	if err := r.claim(2, "north"); err != nil {
		t.Errorf("an id whose holder left: %v", err)
	}
}

// What is told of a peer is a new state, and a new reason for an old one.
func TestLogsReasons(t *testing.T) { synctest.Test(t, testLogsReasons) }

func testLogsReasons(t *testing.T) {
	var out bytes.Buffer
	s := &session{
		log: slog.New(slog.NewTextHandler(&out, nil)), metrics: newMetrics(nil),
		progress: make(chan struct{}, 1), lastState: Connecting,
	}
	setup := func(text string) { s.change(func() { s.facts.setup = errors.New(text) }) }
	expect := func(step string, lines int) {
		t.Helper()
		if got := strings.Count(out.String(), "\n"); got != lines {
			t.Errorf("%s: %d lines, want %d:\n%s", step, got, lines, &out)
		}
	}
	s.change(func() {})
	expect("nothing has happened", 0)
	setup("read 10.0.0.1:40000: connection reset")
	expect("a first reason", 1)
	setup("read 10.0.0.1:40001: connection reset")
	expect("the same reason", 1)
	setup("signed by another authority")
	expect("another, so soon", 1)
	time.Sleep(tellAgain)
	setup("signed by another authority")
	expect("another, later", 2)
	since := s.since
	time.Sleep(time.Second)
	s.change(func() { s.facts = facts{answered: true} })
	expect("another state", 3)
	if s.since.Equal(since) {
		t.Error("the new state has the time of the old one")
	}
}
