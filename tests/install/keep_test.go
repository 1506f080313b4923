package install

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// state is what is kept of a cluster, by path.
type state map[string]string

// state returns what the Secret has in which a cluster's state is kept.
func (s *site) state(t *testing.T) state {
	t.Helper()
	text := s.kubectl(t, "get", "secret", "--namespace=causeway-system", "causeway-state", "--output=jsonpath={.data.part}")
	packed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Files []struct {
			Path string
			Text []byte
		}
	}
	if err := json.NewDecoder(r).Decode(&document); err != nil {
		t.Fatal(err)
	}
	files := state{}
	for _, file := range document.Files {
		files[file.Path] = string(file.Text)
	}
	return files
}

// allocations are the numbers and addresses that were given out, one a line.
func (s state) allocations() (out []string) {
	for _, path := range []string{"identities", "mesh-addresses"} {
		_, body, _ := strings.Cut(s[path], "\n") // the first line is its head
		for line := range strings.Lines(body) {
			out = append(out, path+" "+strings.TrimSpace(line))
		}
	}
	return out
}

// keeps holds that the authority is the same, and all that was given out still is.
func (s *site) keeps(t *testing.T, before state) {
	t.Helper()
	now := s.state(t)
	for _, path := range []string{"pki/ca.crt", "pki/ca.key"} {
		if before[path] == "" || before[path] != now[path] {
			t.Errorf("%s has %d bytes, and is not that of before, of %d", path, len(now[path]), len(before[path]))
		}
	}
	for _, one := range before.allocations() {
		if !slices.Contains(now.allocations(), one) {
			t.Errorf("%s is lost; there are:\n%s", one, strings.Join(now.allocations(), "\n"))
		}
	}
}

// keepData takes east away but for its data, and installs it again: as the member that
// it was.
func (j *journey) keepData(t *testing.T) {
	before, args := j.east.state(t), j.east.arguments(t)
	if !strings.Contains(fmt.Sprint(before.allocations()), "client") {
		t.Errorf("the pod client has no number:\n%s", strings.Join(before.allocations(), "\n"))
	}
	j.on(t, "kind-east", "uninstall", "--keep-data", "--timeout", patience.String())
	want := "Namespace /causeway-system|Secret causeway-system/causeway-state|Secret causeway-system/causeway-state-values"
	var left []string
	for line := range strings.Lines(objects(t, j.east.plane)) {
		if line = strings.TrimSpace(line); !strings.HasSuffix(line, "/kube-root-ca.crt") && !strings.HasSuffix(line, "/default") {
			left = append(left, line)
		}
	}
	if got := strings.Join(left, "|"); got != want {
		t.Errorf("left in the API: %s, want %s", got, want)
	}
	if left := j.east.kernel(t); left != "" {
		t.Errorf("left in the node's kernel:\n%s", left)
	}
	// Of what it had, only what was kept still says the number.
	j.east.kubectl(t, "delete", "pod", "--namespace=shop", "client", "--now")
	j.on(t, "kind-east", "install", "--timeout", patience.String())
	j.east.keeps(t, before)
	if diff := cmp.Diff(args, j.east.arguments(t)); diff != "" {
		t.Errorf("values that were given before:\n%s", diff)
	}
	j.joined(t)
	j.asks(t)
	for _, s := range []*site{j.east, j.west} {
		s.kubectl(t, "delete", "namespace", "shop", "--wait=false")
	}
}
