package chart

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// monitors is the little that has to be known of the Prometheus operator.
const monitors = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: ServiceMonitor, plural: servicemonitors, singular: servicemonitor, listKind: ServiceMonitorList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// everything turns on all that can be turned on beside each other.
const everything = `
cluster: {id: 300, maxConnectedClusters: 511, podCIDRs: [10.1.0.0/16, "fd00:1::/64"], nodeCIDRs: [192.0.2.0/24], externalCIDRs: [198.51.100.0/24],
  reservedCIDRs: [10.96.0.0/12], meshCIDR: "10.201.0.0/16,fd00:2::/64", routeMode: vxlan, peerRouteModes: {west: native, north: auto}}
images: {pullPolicy: Always, pullSecrets: [registry]}
etcd: {mode: external, external: {endpoints: ["https://10.0.0.5:2379", "https://[fd00::5]:2379"], tlsSecret: etcd}}
gateway: {type: LoadBalancer, nodePort: 30474, annotations: {example.com/internal: "true"}, loadBalancerSourceRanges: [10.0.0.0/8],
  loadBalancerClass: example.com/one, externalTrafficPolicy: Local, advertise: [mesh.example.com, 192.0.2.9]}
apiServer: {replicas: 0, nodeSelector: {a: b}, tolerations: [{key: a, operator: Exists}], podAnnotations: {a: b}, podLabels: {c: d}, serviceAccount: {annotations: {a: b}},
  affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: Exists}]}}]}}}
nodeAgent: {endDeadSockets: true, mountBPFFS: true, podAnnotations: {a: b}, podLabels: {c: d}, resources: {limits: {memory: 1Gi}}, updateStrategy: {type: OnDelete, rollingUpdate: null}}
clusterPeers: {secrets: [west, north.example]}
probePods: {enabled: true}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true, annotations: {folder: mesh}}
networkPolicy: {enabled: true, metricsNamespaces: [monitoring, observability]}
criticalPodsQuota: {enabled: true}
extraArgs: {apiServer: [--log-level=debug], nodeAgent: [--log-level=debug]}
`

// sets are values that work, each checked by a Kubernetes API server.
var sets = map[string]string{
	"defaults":      ``,
	"storage class": `{etcd: {storageClass: fast, size: 10Gi, quotaBytes: 4294967296}}`,
	"memory":        `{etcd: {mode: memory, size: 512Mi}}`,
	"external":      `{etcd: {mode: external, external: {endpoints: ["https://10.0.0.5:2379"], tlsSecret: etcd}}}`,
	"node port":     `{gateway: {type: NodePort, nodePort: 30475}}`,
	"load balancer": `{gateway: {type: LoadBalancer}}`,
	"old kernel":    `{nodeAgent: {legacyCapabilities: true, seccompProfile: Unconfined, endDeadSockets: true}}`,
	"bare":          `{podDisruptionBudget: {enabled: false}, apiServer: {priorityClassName: "", resources: {limits: null}}, nodeAgent: {priorityClassName: "", goMemLimit: "", tolerations: []}}`,
	"like numbers":  `{cluster: {name: "1000"}, serviceMonitor: {enabled: true}, etcd: {storageClass: "1e3"}, apiServer: {priorityClassName: "1000"}, nodeAgent: {priorityClassName: "0x10", stateDir: "/var/a, b: #1", bpffs: "/bpf: {1}", cgroups: "/c #1"}}`,
	"like a number": `{etcd: {mode: external, external: {endpoints: ["https://10.0.0.5:2379"], tlsSecret: "1000"}}, gateway: {type: LoadBalancer, loadBalancerClass: "1000"}}`,
	"mesh":          `{cluster: {meshCIDR: 10.201.0.0/16}, probePods: {enabled: true}, networkPolicy: {enabled: true}}`,
	"everything":    everything,
}

// newNamespace makes one with these labels, of the test alone.
func newNamespace(t *testing.T, plane *kubelab.ControlPlane, name, labels string) {
	t.Helper()
	manifest := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: %s}}", name, labels)
	if err := plane.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

// TestDryRun has each set of values checked by a real API server, which knows what
// the objects may look like and warns of what is odd.
func TestDryRun(t *testing.T) {
	plane := shared.Start(t)
	newNamespace(t, plane, namespace, "{pod-security.kubernetes.io/enforce: privileged}")
	if err := plane.Apply(t.Context(), monitors); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Kubectl(t.Context(), "", "wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	for name, text := range sets {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, text)
			// Strict: what the API server would drop without a word is an error.
			_, err := plane.Kubectl(t.Context(), r.manifest, "apply", "--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-")
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestConfined: all pods but the agents' pass the strictest of Kubernetes' profiles.
func TestConfined(t *testing.T) {
	plane := shared.Start(t)
	newNamespace(t, plane, "confined", "{pod-security.kubernetes.io/warn: restricted}")
	for name, text := range sets {
		for _, object := range mustRender(t, text).objects(t) {
			metadata := object["metadata"].(map[string]any)
			if object["kind"] != "StatefulSet" && object["kind"] != "DaemonSet" {
				continue
			}
			metadata["namespace"] = "confined"
			manifest, err := yaml.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			_, err = plane.Kubectl(t.Context(), string(manifest), "apply", "--server-side", "--dry-run=server", "--warnings-as-errors", "-f", "-")
			agent := metadata["name"] == "node-agent"
			if agent && (err == nil || !strings.Contains(err.Error(), "warning")) {
				t.Errorf("%s: the agent passes as well, so nothing is looked at: %v", name, err)
			}
			if !agent && err != nil {
				t.Errorf("%s: %v: %v", name, metadata["name"], err)
			}
		}
	}
}
