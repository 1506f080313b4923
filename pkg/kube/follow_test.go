package kube

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

// nothing is a Store that keeps nothing.
type nothing struct{}

func (nothing) Replace([]runtime.Object) {}
func (nothing) Put(runtime.Object)       {}
func (nothing) Remove(runtime.Object)    {}

// newFollower returns one whose reports are noted: "" for an API server that answers.
func newFollower(ctx context.Context) (f *follower, told *[]string) {
	told = new([]string)
	f = &follower{ctx: ctx, client: &Client{server: "https://api:6443", who: "test"}, FollowConfig: FollowConfig{
		Resource: *pods(), Store: nothing{},
		Report: func(err error) {
			if err == nil {
				*told = append(*told, "")
			} else {
				*told = append(*told, err.Error())
			}
		},
	}}
	return f, told
}

// TestWasAway checks after which failures another history is thought possible.
func TestWasAway(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		last time.Duration // how long it fails
		want bool
	}{
		// The wait after it, of 0.2 s at most, is shorter than an outage.
		"a moment":  {&url.Error{Op: "Get", Err: errors.New("refused")}, outage / 10, false},
		"longer":    {&url.Error{Op: "Get", Err: errors.New("refused")}, 4 * outage, true},
		"forbidden": {apierrors.NewForbidden(pods().GroupVersion.WithResource("pods").GroupResource(), "", errors.New("no")), 4 * outage, true},
		// One that has us wait is there, and would have more to do.
		"throttled": {apierrors.NewTooManyRequests("later", 1), 4 * outage, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, _ := newFollower(t.Context())
				end := time.Now().Add(test.last)
				got := false
				err := f.attempt("watch", func() error {
					if time.Now().Before(end) {
						return test.err
					}
					got = f.wasAway(time.Now())
					return nil
				})
				if err != nil || got != test.want {
					t.Errorf("away %v (%v), want %v", got, err, test.want)
				}
				if f.wasAway(time.Now().Add(4 * outage)) {
					t.Error("it answered, and is away still")
				}
			})
		})
	}
}

// TestCutListing checks that who is told of a cut listing hears that it is well only
// when one is whole, and that the next one waits.
func TestCutListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, told := newFollower(t.Context())
		open := func() error { return f.attempt("watch", func() error { return nil }) }
		began := time.Now()
		for range 3 {
			if !f.waitAfterCut() {
				t.Fatal("it gave up")
			}
			if err := open(); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(began); waited < 3*firstRetry/2 {
			t.Errorf("three listings within %v", waited)
		}
		if len(*told) != 3 || !strings.Contains((*told)[0], "list pods at https://api:6443: the connection ended before the listing was whole") ||
			len(slices.Compact(slices.Clone(*told))) != 1 {
			t.Errorf("told %q, want the same three times", *told)
		}
		if err := (mirror{f}).Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
		if got := (*told)[3:]; !slices.Equal(got, []string{""}) {
			t.Errorf("told %q after a whole listing", got)
		}
		if err := open(); err != nil || !slices.Equal((*told)[3:], []string{"", ""}) {
			t.Errorf("told %q afterwards (%v)", (*told)[3:], err)
		}
	})
}
