package token

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// agents are pods of the agents' service account on two nodes, one that waits for a
// node, and somebody else's.
const agents = `---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: node-agent, namespace: causeway}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: other, namespace: causeway}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-1, namespace: causeway}
spec: {serviceAccountName: node-agent, nodeName: node-1, containers: [{name: agent, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-2, namespace: causeway}
spec: {serviceAccountName: node-agent, containers: [{name: agent, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other-1, namespace: causeway}
spec: {serviceAccountName: other, nodeName: node-1, containers: [{name: agent, image: none}]}
`

// cluster is a Kubernetes cluster with agents.
func cluster(t *testing.T) *kubelab.ControlPlane {
	t.Helper()
	plane := planes.Start(t)
	rbac, err := os.ReadFile("../../deploy/rbac.yaml")
	check(t, err)
	check(t, plane.Apply(within(t), string(rbac)+agents))
	return plane
}

// as returns a client that may do what the service account of that name in the
// namespace causeway may.
func as(t *testing.T, plane *kubelab.ControlPlane, account string) *kube.Client {
	t.Helper()
	text, err := os.ReadFile(plane.Kubeconfig())
	check(t, err)
	const at = ", user: {"
	changed := strings.Replace(string(text), at, at+"as: 'system:serviceaccount:causeway:"+account+"', ", 1)
	if changed == string(text) {
		t.Fatalf("no user's block in:\n%s", text)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	check(t, os.WriteFile(file, []byte(changed), 0o600))
	client, err := kube.New(kube.Config{Kubeconfig: file, Component: "test", Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	t.Cleanup(client.Close)
	return client
}

// issue returns what Kubernetes would give to a pod; bound to nothing for "".
func issue(t *testing.T, plane *kubelab.ControlPlane, account, audience, pod string) string {
	t.Helper()
	args := []string{"create", "token", account, "--namespace=causeway", "--audience=" + audience}
	if pod != "" {
		args = append(args, "--bound-object-kind=Pod", "--bound-object-name="+pod)
	}
	text, err := plane.Kubectl(within(t), "", args...)
	check(t, err)
	return strings.TrimSpace(text)
}

// authorityFile is what an agent's pod knows its cluster by.
func (s *site) authorityFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "authority.crt")
	check(t, os.WriteFile(file, s.authority.CertPEM(), 0o600))
	return file
}

// TestEnrolAccount has a real Kubernetes vouch for pods, by the rights of
// deploy/rbac.yaml.
func TestEnrolAccount(t *testing.T) {
	t.Parallel()
	plane := cluster(t)
	s := newSiteOf(t, "east", "causeway/node-agent", as(t, plane, "clustermesh-apiserver"))
	good := stranger.Account{
		Cluster: "east", Node: "node-1", Token: issue(t, plane, "node-agent", stranger.Audience, "agent-1"),
		Addresses: []string{"127.0.0.1:1", s.doors[0].Addr().String()}, AuthorityFile: s.authorityFile(t), // nobody is at the first
	}
	want := pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: "node-1"}
	for range 2 { // a node may come again
		files := newFiles(t)
		check(t, stranger.EnrolAccount(within(t), files, good), files.CheckSubject(want))
	}
	if n := value(t, s.replicas[0].enrolled); n != 2 {
		t.Errorf("%v enrolments are counted", n)
	}
	refused := 0.0
	for name, tc := range map[string]struct {
		change func(a *stranger.Account)
		want   string
	}{
		"another node":     {func(a *stranger.Account) { a.Node = "node-2" }, `a pod on node "node-1", the certificate would be for node "node-2"`},
		"another audience": {func(a *stranger.Account) { a.Token = issue(t, plane, "node-agent", "other", "agent-1") }, "is not one that Kubernetes vouches for"},
		"another account":  {func(a *stranger.Account) { a.Token = issue(t, plane, "other", stranger.Audience, "other-1") }, "of the service account causeway/other, those of agents are of causeway/node-agent"},
		"no pod":           {func(a *stranger.Account) { a.Token = issue(t, plane, "node-agent", stranger.Audience, "") }, "not that of a pod on a node"},
		"no node yet":      {func(a *stranger.Account) { a.Token = issue(t, plane, "node-agent", stranger.Audience, "agent-2") }, "not that of a pod on a node"},
		"altered":          {func(a *stranger.Account) { a.Token = a.Token[:len(a.Token)-8] + "AAAAAAAA" }, "is not one that Kubernetes vouches for"},
		"none":             {func(a *stranger.Account) { a.Token = "nothing" }, "is not one that Kubernetes vouches for"},
		"too long":         {func(a *stranger.Account) { a.Token = strings.Repeat("a", maxReviewed+1) }, "has no 16385 bytes"},
	} {
		account, files := good, newFiles(t)
		tc.change(&account)
		err := stranger.EnrolAccount(within(t), files, account)
		wantRefused(t, err, tc.want)
		if _, err := os.Stat(files.CertFile); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a certificate is there: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), account.Token) && name != "none" {
			t.Errorf("%s: %v holds the token", name, err)
		}
		refused++
	}
	if n := value(t, s.replicas[0].refusals.WithLabelValues(string(reasonAccount))); n != refused {
		t.Errorf("%v refusals are counted, want %v", n, refused)
	}
}

// The token is told to nobody whom the authority did not certify.
func TestEnrolAccountTrust(t *testing.T) {
	t.Parallel()
	s, other, west := newSite(t, "east"), newSite(t, "east"), newSite(t, "west")
	account := stranger.Account{Cluster: "east", Node: "node-1", Token: "a.b.c", Addresses: []string{s.doors[0].Addr().String()}}
	for name, tc := range map[string]struct{ file, want string }{
		"another authority":  {other.authorityFile(t), "unknown authority"},
		"another cluster's":  {west.authorityFile(t), "it is not the authority of cluster east"},
		"no authority":       {filepath.Join(t.TempDir(), "none"), "read the authority's certificate"},
		"the right one, and": {s.authorityFile(t), "without --agent-service-account"},
	} {
		account.AuthorityFile = tc.file
		err := stranger.EnrolAccount(within(t), newFiles(t), account)
		wantRefused(t, err, tc.want)
		if errors.Is(err, stranger.ErrAway) != (name == "another authority") {
			t.Errorf("%s: whether to try again: %v", name, err)
		}
	}
	if n := value(t, s.replicas[0].refusals.WithLabelValues(string(reasonAccount))); n != 1 {
		t.Errorf("%v tokens came, want that to the right one", n)
	}
	// The authority was replaced since, which the agent has heard.
	files := newFiles(t)
	check(t, os.WriteFile(files.CAFile, s.authority.CertPEM(), 0o600))
	account.AuthorityFile = other.authorityFile(t)
	wantRefused(t, stranger.EnrolAccount(within(t), files, account), "without --agent-service-account")
}

// Where Kubernetes can not be asked, agents try again, and the log says what to do.
func TestReviewForbidden(t *testing.T) {
	t.Parallel()
	plane := cluster(t)
	client := as(t, plane, "other")
	_, err := client.Review(within(t), "a.b.c", stranger.Audience)
	wantRefused(t, err, `give it a ClusterRole with the rule apiGroups: ["authentication.k8s.io"], resources: [tokenreviews], verbs: [create]`)
	s := newSiteOf(t, "east", "causeway/node-agent", client)
	account := stranger.Account{Cluster: "east", Node: "node-1", Token: unsigned(`{"aud":"causeway","sub":"system:serviceaccount:causeway:node-agent","exp":9e9}`), Addresses: []string{s.doors[0].Addr().String()}, AuthorityFile: s.authorityFile(t)}
	if err := stranger.EnrolAccount(within(t), newFiles(t), account); !errors.Is(err, stranger.ErrAway) || !strings.Contains(err.Error(), "Kubernetes can not be asked") {
		t.Errorf("got %v", err)
	}
}

// unsigned is what looks like a token that says claims.
func unsigned(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

// sorting vouches for one token, and counts what it was asked.
type sorting struct {
	right string
	asked atomic.Int64
}

func (r *sorting) Review(_ context.Context, token, _ string) (kube.Holder, error) {
	r.asked.Add(1)
	if token != r.right {
		return kube.Holder{}, kube.ErrToken
	}
	return kube.Holder{Account: "causeway/node-agent", Pod: "agent-1", Node: "node-1"}, nil
}

// TestReviewOnlyLikely checks that Kubernetes hears of no token that can not be right,
// and that a right one comes through where wrong ones came from before.
func TestReviewOnlyLikely(t *testing.T) {
	t.Parallel()
	const ours = "system:serviceaccount:causeway:node-agent"
	r := &sorting{right: unsigned(`{"aud":["other","causeway"],"sub":"` + ours + `","exp":9e9}`)}
	s := newSiteOf(t, "east", "causeway/node-agent", r)
	account := stranger.Account{Cluster: "east", Node: "node-1", Addresses: []string{s.doors[0].Addr().String()}, AuthorityFile: s.authorityFile(t)}
	for _, junk := range []string{
		"junk", "a.b.c", "..", unsigned(`[]`), unsigned(`{}`),
		unsigned(`{"aud":"other","sub":"` + ours + `","exp":9e9}`),
		unsigned(`{"aud":"causeway","sub":"system:serviceaccount:causeway:other","exp":9e9}`),
		unsigned(`{"aud":"causeway","sub":"somebody","exp":9e9}`),
		unsigned(`{"aud":"causeway","sub":"` + ours + `","exp":1}`),
	} {
		account.Token = junk
		if err := stranger.EnrolAccount(within(t), newFiles(t), account); err == nil || errors.Is(err, stranger.ErrAway) {
			t.Errorf("%q: %v", junk, err)
		}
	}
	if n := r.asked.Load(); n != 0 {
		t.Errorf("Kubernetes was asked %d times", n)
	}
	account.Token = unsigned(`{"aud":"causeway","sub":"` + ours + `","exp":9e9}`) // forged
	wantRefused(t, stranger.EnrolAccount(within(t), newFiles(t), account), "is not one that Kubernetes vouches for")
	if loopback := netip.MustParseAddr("127.0.0.1"); !s.replicas[0].limiter.Over(loopback, time.Now()) {
		t.Error("the address is not past its limit")
	}
	account.Token = r.right
	check(t, stranger.EnrolAccount(within(t), newFiles(t), account))
}
