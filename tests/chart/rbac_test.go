package chart

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// rights returns what the roles among the objects let do outside of the namespace
// of the release, one by one.
func rights(t *testing.T, objects []map[string]any) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, object := range objects {
		kind, _ := object["kind"].(string)
		meta, _ := object["metadata"].(map[string]any)
		if !strings.HasSuffix(kind, "Role") || meta["namespace"] == namespace {
			continue
		}
		for _, r := range rulesOf(t, object) {
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					for _, verb := range r.Verbs {
						all[strings.TrimSpace(strings.Join([]string{verb, group, resource, strings.Join(r.ResourceNames, ","), r.namespace}, " "))] = true
					}
				}
			}
		}
	}
	return all
}

// TestByHand: who runs the API server by hand gives it the rights that the chart
// gives it in the whole cluster, by a manifest without Helm.
func TestByHand(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	byHand := rendered{manifest: "\n" + string(text)}.objects(t)
	in := rights(t, mustRender(t).objects(t))
	if len(in) < 10 {
		t.Errorf("%d rights in the chart", len(in))
	}
	if diff := cmp.Diff(in, rights(t, byHand)); diff != "" {
		t.Errorf("deploy/rbac.yaml differs from the chart (-chart +rbac.yaml):\n%s", diff)
	}
}

// TestConfigMaps: of the whole cluster's ConfigMaps and Secrets none may be read but
// those with the ranges, and of these by all of the cluster only what network plugins
// have in a namespace of their own.
func TestConfigMaps(t *testing.T) {
	t.Parallel()
	var got []string
	for right := range rights(t, mustRender(t).objects(t)) {
		if strings.Contains(right, "configmaps") || strings.Contains(right, "secrets") {
			got = append(got, right)
		}
	}
	slices.Sort(got)
	want := []string{"get  configmaps cilium-config,kube-flannel-cfg", "get  configmaps kubeadm-config,kube-proxy,canal-config kube-system"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestMirrorEndpointsOff: who wants no EndpointSlices written gives no right to.
func TestMirrorEndpointsOff(t *testing.T) {
	t.Parallel()
	for off, values := range map[bool]string{false: `{}`, true: `mirrorEndpoints: {enabled: false}`} {
		objects := mustRender(t, values)
		all := rights(t, objects.objects(t))
		for verb, want := range map[string]bool{"list": true, "watch": true, "create": !off, "patch": !off, "delete": !off} {
			if got := all[verb+" discovery.k8s.io endpointslices"]; got != want {
				t.Errorf("mirroring off %v: the right to %s endpointslices: %v", off, verb, got)
			}
		}
		if got := strings.Contains(objects.manifest, "- --mirror-endpoints=false\n"); got != off {
			t.Errorf("mirroring off %v: it is said to the API server: %v", off, got)
		}
	}
}

// TestNothingByWildcard: each right is named.
func TestNothingByWildcard(t *testing.T) {
	t.Parallel()
	for name, text := range sets {
		for _, object := range mustRender(t, text).objects(t) {
			if kind, _ := object["kind"].(string); !strings.HasSuffix(kind, "Role") {
				continue
			}
			if rules, err := yaml.Marshal(object["rules"]); err != nil || strings.Contains(string(rules), "*") {
				t.Errorf("%s: %v: %v\n%s", name, object["metadata"], err, rules)
			}
		}
	}
}
