package clusterpeer

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rights are those of the chart, with one Secret.
const rights = `apiVersion: v1
kind: ServiceAccount
metadata: {name: api, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: api}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [list]}
- {apiGroups: [causeway.io], resources: [clusterpeers], verbs: [list, watch]}
- {apiGroups: [causeway.io], resources: [clusterpeers/status], verbs: [patch]}
- {apiGroups: [""], resources: [secrets], resourceNames: [west], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: api}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: api}
subjects: [{kind: ServiceAccount, name: api, namespace: default}]
`

// clientOf returns a client of an account in the namespace default.
func clientOf(t *testing.T, plane *kubelab.ControlPlane, account string) *kube.Client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	token, err := plane.Kubectl(t.Context(), "", "create", "token", account)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(plane.Kubeconfig())
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"set-credentials", account, "--token=" + strings.TrimSpace(token)}, {"set-context", "--current", "--user=" + account}} {
		if _, err := plane.Kubectl(t.Context(), "", append([]string{"config", "--kubeconfig=" + file}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	c, err := kube.New(kube.Config{Kubeconfig: file, UIDFile: filepath.Join(t.TempDir(), "uid"), Component: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// session is what a test says of the peers.
type session struct {
	mu      sync.Mutex
	peers   []peer.Status
	beliefs map[string]peer.Belief
	standby bool
	events  []string
}

func (s *session) set(change func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// world is a Manager that runs until stop, or the test's end.
type world struct {
	*Manager
	*session
	stop func()
}

func start(t *testing.T, api API, dir string, s *session) *world {
	t.Helper()
	m := New(Config{
		API: api, Cluster: "east", ID: 1, Dir: dir, Files: "/etc/peers", Secrets: "default",
		Writes: func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return !s.standby
		},
		Peers: func() []peer.Status {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.peers
		},
		Beliefs: func() map[string]peer.Belief {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.beliefs
		},
		Event: func(name, _, condition, reason, _ string, good bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, fmt.Sprintf("%s %s %s %v", name, condition, reason, good))
		},
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	w := &world{Manager: m, session: s, stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})}
	t.Cleanup(w.stop)
	return w
}

// pairOf returns an authority and a certificate of it, with its key.
func pairOf(t *testing.T) (ca, cert, key []byte) {
	t.Helper()
	authority, err := pki.OpenAuthority(t.TempDir(), "west")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{Role: pki.RolePeer, Name: "east", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return authority.Bundle(), pair.CertPEM, pair.KeyPEM
}

// secretOf is the manifest of a Secret.
func secretOf(name string, data map[string][]byte) string {
	var parts []string
	for key, value := range data {
		parts = append(parts, fmt.Sprintf("%q: %q", key, base64.StdEncoding.EncodeToString(value)))
	}
	return `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "` + name + `", "namespace": "default"}, "data": {` + strings.Join(parts, ", ") + `}}`
}

func peerOf(name, spec string) string {
	return `{"apiVersion": "causeway.io/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": "` + name + `"}, "spec": ` + spec + `}`
}
