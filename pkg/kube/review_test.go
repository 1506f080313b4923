package kube

import (
	"errors"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// TestHolderOf checks that nobody is vouched for whom Kubernetes does not name. What
// a real one answers is tested in pkg/token.
func TestHolderOf(t *testing.T) {
	status := func(change func(*authenticationv1.TokenReviewStatus)) authenticationv1.TokenReviewStatus {
		s := authenticationv1.TokenReviewStatus{
			Authenticated: true, Audiences: []string{"causeway"},
			User: authenticationv1.UserInfo{
				Username: "system:serviceaccount:causeway:node-agent",
				Extra:    map[string]authenticationv1.ExtraValue{extraPod: {"agent-1"}, extraNode: {"node-1"}},
			},
		}
		change(&s)
		return s
	}
	for name, test := range map[string]struct {
		change func(*authenticationv1.TokenReviewStatus)
		want   Holder
		err    string
	}{
		"good":            {func(*authenticationv1.TokenReviewStatus) {}, Holder{"causeway/node-agent", "agent-1", "node-1"}, ""},
		"refused":         {func(s *authenticationv1.TokenReviewStatus) { s.Authenticated, s.Error = false, "token has expired" }, Holder{}, "Kubernetes vouches for: token has expired"},
		"unknown":         {func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false }, Holder{}, "it has ended, was altered, or its pod is gone"},
		"other audience":  {func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"other"} }, Holder{}, `not for the audience "causeway"`},
		"no audience":     {func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil }, Holder{}, `not for the audience "causeway"`},
		"a person":        {func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "admin" }, Holder{}, `it is of the user "admin"`},
		"no pod":          {func(s *authenticationv1.TokenReviewStatus) { s.User.Extra = nil }, Holder{Account: "causeway/node-agent"}, ""},
		"more than a one": {func(s *authenticationv1.TokenReviewStatus) { s.User.Extra[extraNode] = []string{"node-1", "node-2"} }, Holder{Account: "causeway/node-agent", Pod: "agent-1"}, ""},
	} {
		got, err := holderOf(status(test.change), "causeway")
		if got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
		if test.err == "" && err != nil || test.err != "" && (!errors.Is(err, ErrToken) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: %v, want %q", name, err, test.err)
		}
	}
}
