package renewal

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// at waits for all that a keeper does by then; the clock is the test's.
func at(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// For weeks the certificate is renewed at two thirds of each life, and says so.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		k := b.keep(nil)
		synctest.Wait()
		if s := b.server.Agent("n1"); !s.Ends.Equal(b.certificate().NotAfter) || s.Problem != "" {
			t.Errorf("reported %+v", s)
		}
		for range 12 {
			at(life)
			if left := b.left(); left < life/3-time.Hour || left > life {
				t.Fatalf("%s are left", left)
			}
		}
		if n := b.attempts("ok"); n < 12 || n > 20 || b.attempts("error") != 0 {
			t.Errorf("renewed %v times, failed %v times", n, b.attempts("error"))
		}
		end := b.certificate().NotAfter
		if !b.extended.Equal(end) || !k.Standing().Ends.Equal(end) || !b.server.Agent("n1").Ends.Equal(end) {
			t.Errorf("ends %s: extended %s, known %+v, reported %+v", end, b.extended, k.Standing(), b.server.Agent("n1"))
		}
		if got := value(t, b.metrics.ends.WithLabelValues("east")); got != float64(end.Unix()) {
			t.Errorf("the metric says %v, want %v", got, end.Unix())
		}
	})
}

// A renewal that fails is tried again, shown meanwhile, and forgotten afterwards.
func TestKeepTriesAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		k := b.keep(nil)
		b.set(func() { b.down = status.Error(codes.Unavailable, "broken wire") })
		at(life*2/3 + 6*time.Hour)
		if s := k.Standing(); !strings.Contains(s.Problem, "broken wire") || s.Ends.IsZero() {
			t.Errorf("standing %+v", s)
		}
		if n := b.attempts("error"); n < 36 || n > 100 {
			t.Errorf("%v attempts in 6 hours", n)
		}
		b.set(func() { b.down = nil })
		at(maxRetry)
		if s := k.Standing(); s.Problem != "" || b.left() < life-time.Hour {
			t.Errorf("standing %+v with %s left", s, b.left())
		}
		if s := b.server.Agent("n1"); s.Problem != "" || !s.Ends.Equal(b.certificate().NotAfter) {
			t.Errorf("reported %+v", s)
		}
	})
}

// What the other side says does not reach a terminal as it is, nor at any length.
func TestKeepCleans(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		k := b.keep(nil)
		b.set(func() { b.down = status.Error(codes.Unavailable, "a\x1b[31m\nb"+strings.Repeat("c", 1<<20)) })
		at(life*2/3 + time.Hour)
		if s := k.Standing(); !strings.Contains(s.Problem, "a[31m; bccc") || len(s.Problem) > maxProblem {
			t.Errorf("standing with %d bytes: %.100q", len(s.Problem), s.Problem)
		}
	})
}

// What stands against it on the node is reported to the API server.
func TestKeepReportsProblem(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		b.keep(func(c *KeeperConfig) { c.Files.KeyFile += ".none" })
		at(life*2/3 + time.Hour)
		if s := b.server.Agent("n1"); !strings.Contains(s.Problem, "a.key.none") {
			t.Errorf("reported %+v", s)
		}
	})
}

// The clock of the machine may jump: a certificate that is due by it is renewed
// within a look, one that has ended or has not begun waits for the clock.
func TestKeepClockJumps(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), life)
		var jump time.Duration
		k := b.keep(func(c *KeeperConfig) {
			c.Now = func() time.Time {
				b.mu.Lock()
				defer b.mu.Unlock()
				return time.Now().Add(jump)
			}
		})
		synctest.Wait()
		b.set(func() { jump = -2 * life })
		at(2 * time.Hour)
		if b.attempts("ok")+b.attempts("error") != 0 {
			t.Error("renewed by a clock that was put back")
		}
		b.set(func() { jump = 2 * life })
		at(2 * lookEvery)
		if s := k.Standing(); !strings.Contains(s.Problem, pki.ErrExpired.Error()) || b.attempts("ok") != 0 {
			t.Errorf("by a clock of after its end: %+v", s)
		}
		b.set(func() { jump = life*2/3 - time.Hour })
		at(maxRetry)
		if s := k.Standing(); s.Problem != "" || b.attempts("ok") != 1 {
			t.Errorf("by a clock that makes it due: %+v, renewed %v times", s, b.attempts("ok"))
		}
	})
}

// A gateway that does not renew, such as another make's, is said to; nothing else
// comes of it.
func TestKeepNotOffered(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: "west"}, life)
		b.set(func() { b.down = status.Error(codes.Unimplemented, "unknown service") })
		k := b.keep(func(c *KeeperConfig) { c.Report = false })
		at(life / 2)
		if s := k.Standing(); s.Problem != "" || b.asked() != 0 {
			t.Errorf("%d calls before it is due: %+v", b.asked(), s)
		}
		at(life / 4)
		if s := k.Standing(); s.Problem != errNotOffered.Error() {
			t.Errorf("standing %+v", s)
		}
		b.metrics.Forget("east")
		series := make(chan prometheus.Metric, 9)
		b.metrics.attempts.Collect(series)
		if len(series) != 0 {
			t.Errorf("%d series are left", len(series))
		}
	})
}

// Files that somebody else replaces are looked at again.
func TestLook(t *testing.T) {
	b := newBed(t, t.TempDir(), agent(), time.Hour)
	k := NewKeeper(KeeperConfig{Files: b.files, Cluster: "east", Metrics: b.metrics})
	for _, ttl := range []time.Duration{time.Hour, 2 * time.Hour} {
		pair, err := b.authority.Issue(pki.Request{Role: pki.RoleAgent, Name: "n1", TTL: ttl})
		must(t, err)
		must(t, pair.Save(b.files.CertFile, b.files.KeyFile))
		k.Look()
		if got := k.Standing(); !got.Ends.Equal(b.certificate().NotAfter) {
			t.Errorf("standing %+v", got)
		}
	}
	missing := NewKeeper(KeeperConfig{Files: pki.ClientFiles{CertFile: "/none"}, Cluster: "east", Metrics: b.metrics})
	missing.Look()
	if got := missing.Standing(); !got.Ends.IsZero() {
		t.Errorf("standing %+v", got)
	}
}
