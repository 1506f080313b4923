package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func pods() *Resource {
	return &Resource{GroupVersion: corev1.SchemeGroupVersion, Plural: "pods", Object: &corev1.Pod{}, List: &corev1.PodList{}}
}

// TestDescribe checks that a person is told what is wrong and what to do, and that
// the same trouble is told in the same words.
func TestDescribe(t *testing.T) {
	c := &Client{server: "https://api:6443", who: "/etc/kubeconfig"}
	slices := &Resource{GroupVersion: discoveryv1.SchemeGroupVersion, Plural: "endpointslices"}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
	request := func(err error) error {
		return &url.Error{Op: "Get", URL: "https://api:6443/api/v1/pods?timeoutSeconds=398", Err: err}
	}
	reset := func(port int) error {
		return request(&net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{Port: port}, Err: errors.New("connection reset by peer")})
	}
	tests := map[string]struct {
		err      error
		resource *Resource
		want     []string
	}{
		"forbidden":                     {forbidden, slices, []string{`apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: [list, watch]`, "(watch is missing)"}},
		"forbidden to know the cluster": {&checkError{forbidden}, slices, []string{`apiGroups: [""], resources: ["namespaces"]`, "(list is missing)"}},
		"unauthorized":                  {apierrors.NewUnauthorized("no"), pods(), []string{"https://api:6443 does not accept the credentials of /etc/kubeconfig"}},
		"throttled":                     {apierrors.NewTooManyRequests("later", 1), pods(), []string{"https://api:6443 has us wait"}},
		"no answer":                     {request(context.DeadlineExceeded), pods(), []string{"https://api:6443 does not answer"}},
		"cut":                           {reset(1), pods(), []string{"https://api:6443 cannot be reached: read: connection reset by peer"}},
		"not ready":                     {apierrors.NewInternalError(errors.New("etcd")), pods(), []string{"watch pods at https://api:6443: ", "etcd"}},
		"other":                         {fmt.Errorf("disk: %w", os.ErrPermission), pods(), []string{"disk: permission denied"}},
	}
	for name, test := range tests {
		got := c.describe(test.err, "watch", test.resource).Error()
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q, want %q in it", name, got, want)
			}
		}
		if strings.Contains(got, "398") {
			t.Errorf("%s: %q differs with each request", name, got)
		}
	}
	if a, b := c.describe(reset(1), "watch", pods()).Error(), c.describe(reset(2), "watch", pods()).Error(); a != b {
		t.Errorf("%q and %q are told as two things", a, b)
	}
}

func TestIdentity(t *testing.T) {
	file := filepath.Join(t.TempDir(), "uid")
	first := &identity{file: file, log: slog.New(slog.DiscardHandler)}
	if err := errors.Join(first.check("a"), first.check("a")); err != nil {
		t.Fatal(err)
	}
	if err := first.check("b"); !errors.Is(err, ErrOtherCluster) || !strings.Contains(err.Error(), file) {
		t.Errorf("another cluster: %v", err)
	}
	again := &identity{file: file, log: slog.New(slog.DiscardHandler)}
	if err := again.check("b"); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("another cluster after a restart: %v", err)
	}
	if err := again.check("a"); err != nil {
		t.Errorf("the same cluster after a restart: %v", err)
	}
	nowhere := &identity{file: filepath.Join(file, "uid"), log: slog.New(slog.DiscardHandler)}
	if err := nowhere.check("a"); err == nil {
		t.Error("a file that cannot be read or written is no error")
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func TestOlder(t *testing.T) {
	for _, test := range []struct {
		revision, than string
		want           bool
	}{
		{"9", "10", true},
		{"10", "10", false},
		{"11", "10", false},
		{"18446744073709551615", "1", false},
		{"a", "10", false}, // revisions need not be numbers
		{"9", "", false},
	} {
		if got := older(test.revision, test.than); got != test.want {
			t.Errorf("older(%q, %q) = %v", test.revision, test.than, got)
		}
	}
}

// TestNewCredentials checks what is said of credentials that cannot be used, before
// anything is asked.
func TestNewCredentials(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		file := filepath.Join(dir, "kubeconfig")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const whole = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://localhost:6443'}}]\n" +
		"users: [{name: a, user: {token: secret}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: "
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	tests := map[string]struct{ kubeconfig, want string }{
		"missing":    {filepath.Join(dir, "nowhere"), "nowhere"},
		"no context": {write(whole + "b\n"), "b"},
		"no pod":     {"", "does not run in a pod"},
	}
	for name, test := range tests {
		_, err := New(Config{Kubeconfig: test.kubeconfig, Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q in it", name, err, test.want)
		}
	}
	c, err := New(Config{Kubeconfig: write(whole + "a\n"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Server(); got != "https://localhost:6443" {
		t.Errorf("server %q", got)
	}
}
