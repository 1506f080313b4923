package chart

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// auditPolicy: who does what, no bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata, users: ["system:serviceaccount:` + namespace + `:clustermesh-apiserver", "system:serviceaccount:` + namespace + `:node-agent"]}]
`

// audit is what the API server writes about our ServiceAccounts.
type audit struct{ policy, log string }

func newAudit(t *testing.T) audit {
	t.Helper()
	a := audit{policy: filepath.Join(t.TempDir(), "policy.yaml"), log: filepath.Join(t.TempDir(), "audit.log")}
	if err := os.WriteFile(a.policy, []byte(auditPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// args are for kube-apiserver.
func (a audit) args() []string {
	return []string{"--audit-policy-file=" + a.policy, "--audit-log-path=" + a.log}
}

// use is one thing that somebody did.
type use struct {
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	Verb   string `json:"verb"`
	Object struct {
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		APIGroup    string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	Response struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

func (u use) resource() string {
	if u.Object.Subresource != "" {
		return u.Object.Resource + "/" + u.Object.Subresource
	}
	return u.Object.Resource
}

// uses returns what was done so far.
func (a audit) uses(t *testing.T) []use {
	t.Helper()
	file, err := os.Open(a.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var all []use
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var u use
		if json.Unmarshal(lines.Bytes(), &u) == nil { // the last line may not be whole yet
			all = append(all, u)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// rule is one of a Role or ClusterRole.
type rule struct {
	APIGroups     []string `json:"apiGroups"`
	Resources     []string `json:"resources"`
	ResourceNames []string `json:"resourceNames"`
	Verbs         []string `json:"verbs"`
	namespace     string   // of a Role
}

// lets reports whether the rule lets a verb on a resource through that was used.
func (r rule) lets(u use, resource, verb string) bool {
	if r.namespace != "" && u.Object.Namespace != r.namespace || len(r.ResourceNames) > 0 && !slices.Contains(r.ResourceNames, u.Object.Name) {
		return false
	}
	return u.Verb == verb && u.resource() == resource && slices.Contains(r.APIGroups, u.Object.APIGroup) && u.Response.Code != http.StatusForbidden
}
