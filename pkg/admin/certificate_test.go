package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestCertificates(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	in := func(holder string, left time.Duration, problem string) Certificate {
		return Certificate{Holder: holder, Ends: now.Add(left), Problem: problem}
	}
	const day = 24 * time.Hour
	var many []Certificate
	for i := range 9 {
		many = append(many, in(fmt.Sprintf("agent n%d", i), 60*time.Hour, "read-only file system"))
	}
	for name, tc := range map[string]struct {
		all   []Certificate
		ready bool
		want  string
	}{
		"none":                   {nil, true, ""},
		"all well":               {[]Certificate{in("agent n1", 5*day, ""), in("peer west", 3*day+time.Hour, "")}, true, "the first to end, that of peer west, ends in 3 days"},
		"soon":                   {[]Certificate{in("agent n1", 90*time.Minute, "")}, true, "the first to end, that of agent n1, ends in 1h30m0s"},
		"a problem":              {[]Certificate{in("agent n1", 3*day, ""), in("peer west", 9*day, "no room")}, true, "the first to end, that of agent n1, ends in 3 days; that of peer west ends in 9 days and is not renewed: no room"},
		"a problem that hurries": {[]Certificate{in("peer west", day, "no room")}, false, "that of peer west ends in 24h0m0s and is not renewed: no room"},
		"too late":               {[]Certificate{in("peer west", -time.Hour, "")}, false, "that of peer west ended 1h0m0s ago and is not renewed"},
		"many":                   {many, true, "; and 4 more"},
	} {
		got := certificates(tc.all, now)
		if got.Name != "certificates" || got.Ready != tc.ready || got.Reason != tc.want && (name != "many" || !strings.HasSuffix(got.Reason, tc.want)) {
			t.Errorf("%s: ready %t, %q", name, got.Ready, got.Reason)
		}
	}
}
