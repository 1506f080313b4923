package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// definition is the file of the chart with the kind.
const definition = "../../deploy/chart/templates/clusterpeer.yaml"

func readDefinition(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(definition)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// definedType is the part of a schema that fields have a counterpart of.
type definedType struct {
	Type                 string                 `yaml:"type"`
	Properties           map[string]definedType `yaml:"properties"`
	Items                *definedType           `yaml:"items"`
	AdditionalProperties *definedType           `yaml:"additionalProperties"`
}

// TestDefinition holds the schema and the types together: each has the fields of the
// other, and of the same type.
func TestDefinition(t *testing.T) {
	t.Parallel()
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					Whole definedType `yaml:"openAPIV3Schema"`
				} `yaml:"schema"`
			} `yaml:"versions"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal([]byte(readDefinition(t)), &crd); err != nil {
		t.Fatal(err)
	}
	whole := crd.Spec.Versions[0].Schema.Whole
	for _, part := range []struct {
		name string
		of   reflect.Type
	}{{"spec", reflect.TypeFor[ClusterPeerSpec]()}, {"status", reflect.TypeFor[ClusterPeerStatus]()}} {
		compareSchema(t, part.name, part.of, whole.Properties[part.name])
	}
}

func compareSchema(t *testing.T, at string, of reflect.Type, s definedType) {
	t.Helper()
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	want := map[reflect.Kind]string{
		reflect.Struct: "object", reflect.Map: "object", reflect.Slice: "array", reflect.String: "string", reflect.Int64: "integer",
	}[of.Kind()]
	if want == "" || s.Type != want {
		t.Errorf("%s is %s in the types, and %q in the schema", at, of, s.Type)
		return
	}
	switch of.Kind() {
	case reflect.Slice:
		compareSchema(t, at+"[]", of.Elem(), *s.Items)
	case reflect.Map:
		compareSchema(t, at+"{}", of.Elem(), *s.AdditionalProperties)
	case reflect.Struct:
		fields := map[string]reflect.Type{}
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			fields[name] = of.Field(i).Type
		}
		for name, property := range s.Properties {
			if fields[name] == nil {
				t.Errorf("%s.%s is in the schema, and not in the types", at, name)
				continue
			}
			compareSchema(t, at+"."+name, fields[name], property)
			delete(fields, name)
		}
		for name := range fields {
			t.Errorf("%s.%s is in the types, and not in the schema", at, name)
		}
	default:
	}
}

// peerOf is the manifest of a ClusterPeer of that spec, which is JSON.
func peerOf(name, spec string) string {
	return `{"apiVersion": "causeway.io/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": "` + name + `"}, "spec": ` + spec + `}`
}

// TestClusterPeersInPages lists through an API server that gives two at a time, and
// one that never ends: what is not read whole is an error, as the rest would be taken
// for gone.
func TestClusterPeersInPages(t *testing.T) {
	t.Parallel()
	plane := kubelab.Start(t, kubelab.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var pages atomic.Int32
	var size atomic.Value
	size.Store("2")
	client := clientOf(t, kubelab.Proxy(t, plane, func(w http.ResponseWriter, request *http.Request) http.ResponseWriter {
		if query := request.URL.Query(); request.URL.Path == clusterPeers && query.Get("limit") != "" {
			pages.Add(1)
			query.Set("limit", size.Load().(string))
			request.URL.RawQuery = query.Encode()
		}
		return w
	}).Kubeconfig)
	apply(t, plane, readDefinition(t))
	const count = clusterPeersPages + 1
	for i := range count {
		manifest := peerOf(fmt.Sprintf("west-%d", i), `{"claims": {"podCIDRs": ["10.202.0.0/16"]}}`)
		kubelab.UntilSo(t, "the kind is served", func() bool { return plane.Apply(ctx, manifest) == nil })
	}
	peers, revision, err := client.ClusterPeers(ctx)
	if err != nil || len(peers) != count || revision == "" || peers[count-1].Metadata.Name != fmt.Sprintf("west-%d", count-1) {
		t.Errorf("%d ClusterPeers at %q, want %d: %v", len(peers), revision, count, err)
	}
	if n := pages.Load(); n != (count+1)/2 {
		t.Errorf("read in %d pages", n)
	}
	size.Store("1")
	if peers, _, err = client.ClusterPeers(ctx); err == nil || !strings.Contains(err.Error(), "more than 4 ClusterPeers") {
		t.Errorf("more than are read: %d, %v", len(peers), err)
	}
}

// TestClusterPeers takes the kind from a control plane that does not know it to
// objects with a status, and what the schema refuses.
func TestClusterPeers(t *testing.T) {
	t.Parallel()
	plane := kubelab.Start(t, kubelab.Config{})
	client := clientOf(t, plane.Kubeconfig())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, _, err := client.ClusterPeers(ctx); !errors.Is(err, ErrNotServed) {
		t.Fatalf("without the kind: %v", err)
	}
	apply(t, plane, readDefinition(t))
	var peers []ClusterPeer
	var revision string
	kubelab.UntilSo(t, "the kind is served", func() (ok bool) {
		var err error
		peers, revision, err = client.ClusterPeers(ctx)
		return err == nil && len(peers) == 0
	})

	t.Run("refused", func(t *testing.T) { testRefused(t, plane) })

	changed := make(chan error, 1)
	go func() { changed <- client.AwaitClusterPeers(ctx, revision, time.Minute) }()
	const spec = `{"id": 511, "endpoints": ["https://192.0.2.1:8474"], "secretRef": {"name": "west"},
		"claims": {"podCIDRs": ["10.2.0.0/16", "fd00:2::/48"], "meshCIDR": ["10.250.2.0/24"], "nodeCIDRs": [], "externalCIDRs": ["198.51.100.0/24"]},
		"import": {"namespaces": ["shop"], "quotas": {"nodes": 10, "bytes": 536870912}, "serviceSelector": {"matchLabels": {"export": "yes"},
		"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}, {"key": "beta", "operator": "DoesNotExist"}]}}}`
	kubelab.UntilSo(t, "a good one is taken", func() bool { return plane.Apply(ctx, peerOf("west", spec)) == nil })
	if err := <-changed; err != nil {
		t.Fatal(err)
	}
	peers, _, err := client.ClusterPeers(ctx)
	if err != nil || len(peers) != 1 {
		t.Fatalf("%d objects, %v", len(peers), err)
	}
	var want ClusterPeerSpec
	if err := json.Unmarshal([]byte(spec), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, peers[0].Spec); diff != "" || peers[0].Metadata.Name != "west" || peers[0].Metadata.Generation != 1 {
		t.Errorf("%+v (-want +got):\n%s", peers[0].Metadata, diff)
	}
	testPeerStatus(ctx, t, plane, client)
}

// testPeerStatus writes a status, and another one without what the first had.
func testPeerStatus(ctx context.Context, t *testing.T, plane *kubelab.ControlPlane, client *Client) {
	t.Helper()
	days := int64(29)
	status := ClusterPeerStatus{
		ObservedGeneration: 1, ID: 2, State: "synced", Origin: "ClusterPeer", CertificateEnds: "2026-01-02T03:04:05Z", CertificateDaysLeft: &days,
		Refused: 3, RefusedByReason: map[string]int64{"identity": 3},
		Conditions: []ClusterPeerCondition{{Type: "Ready", Status: "True", LastTransitionTime: "2026-01-02T03:04:05Z", Reason: "Synced"}},
	}
	for _, s := range []ClusterPeerStatus{status, {ID: 2}} {
		if err := client.PutClusterPeerStatus(ctx, "west", &s); err != nil {
			t.Fatal(err)
		}
		peers, _, err := client.ClusterPeers(ctx)
		if err != nil || len(peers) != 1 {
			t.Fatalf("%d objects, %v", len(peers), err)
		}
		if diff := cmp.Diff(s, peers[0].Status); diff != "" || peers[0].Metadata.Generation != 1 {
			t.Errorf("generation %d, status (-want +got):\n%s", peers[0].Metadata.Generation, diff)
		}
		if s.State == "" {
			continue
		}
		table, err := plane.Kubectl(ctx, "", "get", "clusterpeers")
		if err != nil {
			t.Fatal(err)
		}
		rows := strings.Split(strings.TrimSpace(table), "\n")
		if diff := cmp.Diff([]string{"NAME", "ID", "STATE", "READY", "ORIGIN", "DAYS", "REFUSED", "AGE"}, strings.Fields(rows[0])); diff != "" {
			t.Errorf("columns (-want +got):\n%s", diff)
		}
		if got := strings.Fields(rows[len(rows)-1]); len(got) != 8 || !cmp.Equal(got[:7], []string{"west", "2", "synced", "True", "ClusterPeer", "29", "3"}) {
			t.Errorf("row is %q", got)
		}
	}
	if err := client.PutClusterPeerStatus(ctx, "none", &status); !errors.Is(err, ErrGone) {
		t.Errorf("status of none: %v", err)
	}
	apply(t, plane, someRights)
	poor := clientOf(t, kubeconfigOf(t, plane, "reader"))
	if _, err := poor.Secret(ctx, "default", "west"); !errors.Is(err, ErrForbidden) {
		t.Errorf("a Secret without the right: %v", err)
	}
	if _, err := client.Secret(ctx, "default", "west"); !errors.Is(err, ErrGone) {
		t.Errorf("no Secret: %v", err)
	}
	apply(t, plane, `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "west", "namespace": "default"}, "data": {"tls.crt": "YWJj"}}`)
	if data, err := client.Secret(ctx, "default", "west"); err != nil || string(data["tls.crt"]) != "abc" {
		t.Errorf("the Secret has %d keys, %v", len(data), err)
	}
}

// testRefused gives the API server what it has to refuse, each with the reason.
func testRefused(t *testing.T, plane *kubelab.ControlPlane) {
	for name, test := range map[string]struct{ object, spec, want string }{
		"nothing said":           {spec: `{}`, want: "give secretRef"},
		"no spec":                {spec: `null`, want: "spec"},
		"endpoints alone":        {spec: `{"endpoints": ["https://h:1"], "claims": {}}`, want: "endpoints take a secretRef"},
		"no https":               {spec: `{"endpoints": ["http://h:1"], "secretRef": {"name": "s"}}`, want: "spec.endpoints[0]"},
		"no port":                {spec: `{"endpoints": ["https://h"], "secretRef": {"name": "s"}}`, want: "spec.endpoints[0]"},
		"with a user":            {spec: `{"endpoints": ["https://u@h:1"], "secretRef": {"name": "s"}}`, want: "spec.endpoints[0]"},
		"no endpoint":            {spec: `{"endpoints": [], "secretRef": {"name": "s"}}`, want: "spec.endpoints"},
		"a Secret's path":        {spec: `{"secretRef": {"name": "../s"}}`, want: "spec.secretRef.name"},
		"a Secret without name":  {spec: `{"secretRef": {}}`, want: "spec.secretRef.name"},
		"no range":               {spec: `{"claims": {"podCIDRs": ["10.1.0.0"]}}`, want: "is no range like"},
		"bits behind the range":  {spec: `{"claims": {"nodeCIDRs": ["10.1.2.3/16"]}}`, want: "is no range like"},
		"an IPv6 in IPv4":        {spec: `{"claims": {"externalCIDRs": ["::ffff:10.0.0.0/104"]}}`, want: "is no range like"},
		"three mesh ranges":      {spec: `{"claims": {"meshCIDR": ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]}}`, want: "spec.claims.meshCIDR"},
		"an id of none":          {spec: `{"id": 0}`, want: "spec.id"},
		"an id that is no one's": {spec: `{"id": 512}`, want: "spec.id"},
		"an id that is a text":   {spec: `{"id": "2"}`, want: "spec.id"},
		"a quota of none":        {spec: `{"import": {"quotas": {"nodes": 0}}}`, want: "spec.import.quotas.nodes"},
		"a negative quota":       {spec: `{"import": {"quotas": {"bytes": -1}}}`, want: "spec.import.quotas.bytes"},
		"an empty namespace":     {spec: `{"import": {"namespaces": [""]}}`, want: "spec.import.namespaces[0]"},
		"an operator":            {spec: `{"import": {"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}}`, want: "operator"},
		"In nothing":             {spec: `{"import": {"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}`, want: "In and NotIn take values"},
		"Exists in something":    {spec: `{"import": {"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}}`, want: "take none"},
		"a name with a dot":      {object: "a.b", spec: `{"claims": {}}`, want: "the object has the cluster's name"},
		"a name that is long":    {object: strings.Repeat("a", 33), spec: `{"claims": {}}`, want: "the object has the cluster's name"},
		"an unknown field":       {spec: `{"claims": {"podCidrs": []}}`, want: "podCidrs"},
	} {
		object := test.object
		if object == "" {
			object = "refused"
		}
		err := plane.Apply(t.Context(), peerOf(object, test.spec))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q in it", name, err, test.want)
		}
	}
}
