package clusterpeer

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// TestManager takes resources to files with the chart's rights and no more: the kind
// comes late, a permission is missing, a Secret changes, the spec breaks, objects go.
func TestManager(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	ctx := t.Context()
	apply := func(manifest string) {
		t.Helper()
		kubelab.UntilSo(t, "applied", func() bool { return plane.Apply(ctx, manifest) == nil })
	}
	apply(rights)
	api := clientOf(t, plane, "api")
	dir := t.TempDir()
	w := start(t, api, dir, &session{})
	<-w.Loaded()
	kubelab.UntilSo(t, "it is said that the kind is missing", func() bool { return strings.Contains(w.Problem(), "is not installed") })

	kind, err := os.ReadFile("../../deploy/chart/templates/clusterpeer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	apply(string(kind))
	ca, cert, key := pairOf(t)
	apply(secretOf("west", map[string][]byte{"ca.crt": ca, "tls.crt": cert, "tls.key": key}))
	apply(peerOf("west", `{"endpoints": ["https://192.0.2.1:8474"], "secretRef": {"name": "west"}, "claims": {"podCIDRs": ["10.2.0.0/16"]}}`))
	apply(peerOf("north", `{"secretRef": {"name": "north"}}`))
	apply(peerOf("south", `{"claims": {"podCIDRs": ["10.4.0.0/16"]}, "import": {"serviceSelector": {"matchLabels": {"export": "yes"}}, "quotas": {"nodes": 3}}}`))
	apply(peerOf("east", `{"claims": {}}`))
	apply(peerOf("mid", `{"id": 1}`))

	west := filepath.Join(dir, "west")
	kubelab.UntilSo(t, "the file of west", func() bool { return exists(west) && exists(filepath.Join(dir, "south")) && w.Problem() == "" })
	file := parseFile(t, west)
	if diff := cmp.Diff([]string{"https://192.0.2.1:8474"}, file.Endpoints); diff != "" || len(file.Claims) != 1 || !sameFile(t, file.TLS.KeyFile, key) || !sameFile(t, file.TLS.CAFile, ca) {
		t.Errorf("west is %+v", file)
	}
	if south := parseFile(t, filepath.Join(dir, "south")); len(south.Endpoints) > 0 || len(south.Claims) != 1 || south.Import.Quotas.Nodes != 3 || south.Import.Services.MatchLabels["export"] != "yes" {
		t.Errorf("south is %+v", south)
	}
	want := map[string]string{"west": "True Accepted", "south": "True Accepted", "north": "False SecretForbidden", "east": "False Invalid", "mid": "False Invalid"}
	var got map[string]string
	kubelab.UntilSo(t, "the conditions", func() bool { got = accepted(ctx, t, api); return cmp.Equal(want, got) })
	if ok, refused := w.count(); ok != 2 || refused != 3 {
		t.Errorf("%d are in force, %d are not", ok, refused)
	}

	t.Log("what was renewed stays until the Secret is another")
	_, renewed, renewedKey := pairOf(t)
	writeFile(t, file.TLS.CertFile, renewed)
	writeFile(t, file.TLS.KeyFile, renewedKey)
	apply(peerOf("west", `{"endpoints": ["https://192.0.2.2:8474"], "secretRef": {"name": "west"}}`))
	kubelab.UntilSo(t, "the new address", func() bool { return parseFile(t, west).Endpoints[0] == "https://192.0.2.2:8474" })
	if !sameFile(t, file.TLS.KeyFile, renewedKey) {
		t.Error("the renewed key was replaced by the one of the Secret that is the same")
	}
	ca, cert, key = pairOf(t)
	apply(secretOf("west", map[string][]byte{"ca.crt": ca, "tls.crt": cert, "tls.key": key}))
	apply(peerOf("west", `{"endpoints": ["https://192.0.2.3:8474"], "secretRef": {"name": "west"}}`)) // read at once
	kubelab.UntilSo(t, "the key of the new Secret", func() bool { return sameFile(t, file.TLS.KeyFile, key) && sameFile(t, file.TLS.CAFile, ca) })

	t.Log("what is broken changes nothing, over a start either")
	apply(secretOf("west", map[string][]byte{"tls.key": []byte("none")}))
	apply(peerOf("west", `{"endpoints": ["https://192.0.2.9:8474"], "secretRef": {"name": "west"}}`))
	kubelab.UntilSo(t, "west is refused", func() bool { return accepted(ctx, t, api)["west"] == "False SecretInvalid" })
	w.stop()
	w = start(t, api, dir, &session{})
	<-w.Loaded()
	kubelab.UntilSo(t, "read again", func() bool { ok, refused := w.count(); return ok == 1 && refused == 4 })
	if got := parseFile(t, west); got.Endpoints[0] != "https://192.0.2.3:8474" || !sameFile(t, got.TLS.KeyFile, key) {
		t.Errorf("west is %+v", got)
	}

	t.Log("without a way to reach it no key is left, and without the object no file")
	apply(peerOf("west", `{"import": {"namespaces": ["shop"]}}`))
	kubelab.UntilSo(t, "no key", func() bool { return !exists(file.TLS.KeyFile) && len(parseFile(t, west).Import.Namespaces) == 1 })
	if _, err := plane.Kubectl(ctx, "", "delete", "clusterpeer", "--all"); err != nil {
		t.Fatal(err)
	}
	kubelab.UntilSo(t, "no files", func() bool {
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) == 1 && entries[0].Name() == readMark
	})
	testStatus(ctx, t, api, w, apply)
	testNoRights(t, plane)
}

// testStatus has the status follow the peer, and only on the replica that writes.
func testStatus(ctx context.Context, t *testing.T, api API, w *world, apply func(string)) {
	t.Helper()
	w.set(func(s *session) { s.standby = true })
	apply(peerOf("south", `{"id": 5}`))
	kubelab.UntilSo(t, "south is known", func() bool { ok, _ := w.count(); return ok == 1 })
	w.set(func(s *session) {
		s.peers = []peer.Status{{Name: "south", ID: 4, State: peer.Synced, File: "/joined/south", Bounds: "/x/south", Refused: map[string]int{"identity": 2}}}
	})
	now := time.Now()
	if due := w.due(now); len(due) != 1 || len(w.due(now)) != 0 {
		t.Errorf("due are %+v, and then no object for a while", due)
	}
	w.set(func(s *session) { s.standby = false })
	kubelab.UntilSo(t, "the status", func() bool {
		peers, _, err := api.ClusterPeers(ctx)
		return err == nil && len(peers) == 1 && peers[0].Status.State == "synced" && peers[0].Status.Refused == 2 && peers[0].Status.Origin == "joined"
	})
	told := func(event string) {
		t.Helper()
		kubelab.UntilSo(t, event, func() bool {
			w.session.mu.Lock()
			defer w.session.mu.Unlock()
			return slices.Contains(w.events, event)
		})
	}
	told("south Ready OtherID false")
	apply(peerOf("south", `{"id": 4}`))
	told("south Ready Synced true")
}

// accepted returns the condition by name, of objects that were looked at.
func accepted(ctx context.Context, t *testing.T, api API) map[string]string {
	t.Helper()
	peers, _, err := api.ClusterPeers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range peers {
		for _, c := range p.Status.Conditions {
			if c.Type == conditionAccepted && c.ObservedGeneration == p.Metadata.Generation {
				out[p.Metadata.Name] = c.Status + " " + c.Reason
			}
		}
	}
	return out
}

// testNoRights says what is missing, and waits for nobody.
func testNoRights(t *testing.T, plane *kubelab.ControlPlane) {
	t.Helper()
	if err := plane.Apply(t.Context(), strings.ReplaceAll(strings.ReplaceAll(rights, "name: api", "name: poor"), "causeway.io", "example.com")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "west"), []byte(`{"claims": {}}`))
	w := start(t, clientOf(t, plane, "poor"), dir, &session{})
	<-w.Loaded()
	kubelab.UntilSo(t, "the rule that is missing", func() bool {
		return strings.Contains(w.Problem(), `apiGroups: ["causeway.io"], resources: ["clusterpeers"], verbs: [list, watch]`)
	})
	if !exists(filepath.Join(dir, "west")) {
		t.Error("what was read before is gone")
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	ca, cert, key := pairOf(t)
	_, otherCert, _ := pairOf(t)
	at := []string{"https://h:1"}
	config := []byte("endpoints: [https://clustermesh:2379]\ntrusted-ca-file: /var/lib/cilium/clustermesh/west-ca.crt\n" +
		"key-file: /var/lib/cilium/clustermesh/west.key\ncert-file: west.crt\n")
	for name, test := range map[string]struct {
		endpoints []string
		data      map[string][]byte
		want      string // endpoint
		wrong     string
	}{
		"three keys":           {endpoints: at, data: map[string][]byte{"ca.crt": ca, "tls.crt": cert, "tls.key": key}, want: "https://h:1"},
		"a client file":        {data: map[string][]byte{"west": config, "west-ca.crt": ca, "west.crt": cert, "west.key": key}, want: "https://clustermesh:2379"},
		"by a name of its own": {data: map[string][]byte{"etcd-config.yaml": config, "west-ca.crt": ca, "west.crt": cert, "west.key": key}, want: "https://clustermesh:2379"},
		"other endpoints":      {endpoints: at, data: map[string][]byte{"west": config, "west-ca.crt": ca, "west.crt": cert, "west.key": key}, want: "https://h:1"},
		"no endpoints":         {data: map[string][]byte{"ca.crt": ca, "tls.crt": cert, "tls.key": key}, wrong: "neither it nor spec.endpoints"},
		"nothing":              {endpoints: at, wrong: `has no "ca.crt"`},
		"no key":               {endpoints: at, data: map[string][]byte{"ca.crt": ca, "tls.crt": cert}, wrong: `has no "tls.key"`},
		"a file names none":    {data: map[string][]byte{"west": []byte("endpoints: [https://h:1]\n")}, wrong: "has no"},
		"a torn file":          {data: map[string][]byte{"west": []byte("endpoints: [")}, wrong: "does not parse"},
		"another's key":        {endpoints: at, data: map[string][]byte{"ca.crt": ca, "tls.crt": otherCert, "tls.key": key}, wrong: "do not belong together"},
		"no authority":         {endpoints: at, data: map[string][]byte{"ca.crt": []byte("x"), "tls.crt": cert, "tls.key": key}, wrong: "is no certificate"},
	} {
		got, err := credentialsOf("west", test.endpoints, test.data)
		switch {
		case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong) || strings.Contains(err.Error(), "PRIVATE")):
			t.Errorf("%s: %v, want %q", name, err, test.wrong)
		case test.wrong == "" && (err != nil || got.endpoints[0] != test.want || got.key != string(key) || got.cert != string(cert) || got.ca != string(ca)):
			t.Errorf("%s: %v", name, err)
		}
	}
	m := &Manager{cfg: Config{Cluster: "east"}}
	err := m.declare(t.Context(), &kube.ClusterPeer{
		Metadata: kube.ClusterPeerMeta{Name: "west"}, Spec: kube.ClusterPeerSpec{SecretRef: &kube.ClusterPeerSecret{Name: "west"}},
	})
	if r := refusalOf(err); r.reason != reasonSecretNotNamed {
		t.Errorf("without a namespace: %+v", r)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func writeFile(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func sameFile(t *testing.T, file string, want []byte) bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) == string(want)
}

func parseFile(t *testing.T, file string) peer.File {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := peer.ParseBounded(text, filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
