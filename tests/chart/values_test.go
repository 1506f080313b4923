package chart

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/deploy/chart"
)

// TestRefused: what cannot work is refused before anything is asked of the cluster,
// by a line that names the value.
func TestRefused(t *testing.T) {
	t.Parallel()
	const external = `, external: {endpoints: ["https://10.0.0.5:2379"], tlsSecret: etcd}`
	for name, test := range map[string]struct{ values, want string }{
		"unknown key":          {`clutser: {name: east}`, "clutser"},
		"unknown key below":    {`gateway: {typ: NodePort}`, "typ"},
		"upper case":           {`cluster: {name: East}`, "cluster/name"},
		"name too long":        {`cluster: {name: a234567890123456789012345678901234}`, "cluster/name"},
		"name ends in -":       {`cluster: {name: east-}`, "cluster/name"},
		"no name":              {`cluster: {name: ""}`, "cluster.name is required"},
		"no id":                {`cluster: {id: 0}`, "cluster.id is required"},
		"id of text":           {`cluster: {id: "1"}`, "cluster/id"},
		"id past all":          {`cluster: {id: 512}`, "cluster/id"},
		"id past the mesh":     {`cluster: {id: 256}`, "set the latter to 511"},
		"size of the mesh":     {`cluster: {maxConnectedClusters: 300}`, "cluster/maxConnectedClusters"},
		"address, not a range": {`cluster: {podCIDRs: [10.1.0.0]}`, "cluster/podCIDRs/0"},
		"octet":                {`cluster: {podCIDRs: [10.1.0.256/16]}`, "cluster/podCIDRs/0"},
		"prefix length":        {`cluster: {nodeCIDRs: [10.1.0.0/33]}`, "cluster/nodeCIDRs/0"},
		"range of text":        {`cluster: {reservedCIDRs: 10.1.0.0/16}`, "cluster/reservedCIDRs"},
		"mesh range":           {`cluster: {meshCIDR: mesh}`, "cluster/meshCIDR"},
		"three mesh ranges":    {`cluster: {meshCIDR: "10.1.0.0/16,10.2.0.0/16,fd00::/64"}`, "cluster/meshCIDR"},
		"mode":                 {`cluster: {meshCIDR: 10.1.0.0/16, routeMode: geneve}`, "cluster/routeMode"},
		"mode without a mesh":  {`cluster: {routeMode: native}`, "takes cluster.meshCIDR"},
		"peer's mode":          {`cluster: {meshCIDR: 10.1.0.0/16, peerRouteModes: {west: geneve}}`, "cluster/peerRouteModes/west"},
		"no image":             {`images: {apiServer: ""}`, "images.apiServer is required"},
		"no agent image":       {`images: {nodeAgent: ""}`, "images.nodeAgent is required"},
		"image of two words":   {`images: {nodeAgent: "node agent"}`, "images/nodeAgent"},
		"pull policy":          {`images: {pullPolicy: Sometimes}`, "images/pullPolicy"},
		"etcd mode":            {`etcd: {mode: disk}`, "etcd/mode"},
		"etcd size":            {`etcd: {size: big}`, "etcd/size"},
		"quota":                {`etcd: {quotaBytes: 1024}`, "etcd/quotaBytes"},
		"external, no address": {`etcd: {mode: external, external: {tlsSecret: etcd}}`, "etcd.external.endpoints is required"},
		"external, no Secret":  {`etcd: {mode: external, external: {endpoints: ["https://10.0.0.5:2379"]}}`, "etcd.external.tlsSecret is required"},
		"external, no TLS":     {`etcd: {mode: external, external: {endpoints: ["http://10.0.0.5:2379"], tlsSecret: etcd}}`, "etcd/external/endpoints/0"},
		"external, not meant":  {`etcd: {mode: memory` + external + `}`, "etcd.mode is memory"},
		"memory, class":        {`etcd: {mode: memory, storageClass: fast}`, "etcd.storageClass is for"},
		"external, quota":      {`etcd: {mode: external, quotaBytes: 1073741824` + external + `}`, "etcd.quotaBytes is for"},
		"replicas":             {`apiServer: {replicas: 2}`, "apiServer/replicas"},
		"gateway":              {`gateway: {type: Ingress}`, "gateway/type"},
		"node port":            {`gateway: {nodePort: 30000}`, "gateway.nodePort is for"},
		"node port past all":   {`gateway: {type: NodePort, nodePort: 70000}`, "gateway/nodePort"},
		"sources":              {`gateway: {type: NodePort, loadBalancerSourceRanges: [10.0.0.0/8]}`, "gateway.loadBalancerSourceRanges are for"},
		"advertised with port": {`gateway: {advertise: ["a.example.com/x"]}`, "gateway/advertise/0"},
		"metrics readers":      {`networkPolicy: {metricsNamespaces: [monitoring]}`, "networkPolicy.enabled is false"},
		"probes without mesh":  {`probePods: {enabled: true}`, "takes cluster.meshCIDR"},
		"argument, no flag":    {`extraArgs: {apiServer: [debug]}`, "extraArgs/apiServer/0"},
		"folder":               {`nodeAgent: {stateDir: causeway}`, "nodeAgent/stateDir"},
	} {
		_, err := render(t, values(t, least, test.values))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// TestDefaults: what values.yaml says is what the chart takes, and only what has to
// be given is missing from it.
func TestDefaults(t *testing.T) {
	t.Parallel()
	if _, err := render(t, values(t, least)); err != nil {
		t.Error(err)
	}
	if _, err := render(t, nil); err == nil || !strings.Contains(err.Error(), "cluster.name is required") {
		t.Errorf("without values: %v", err)
	}
}

// TestNotes: the next command stands there, for this cluster and namespace.
func TestNotes(t *testing.T) {
	t.Parallel()
	notes := mustRender(t).notes
	for _, want := range []string{"cluster east, id 1 of 255", "--namespace " + namespace + " rollout status", `'{{index .data "admin.yaml" | base64decode}}' >east.yaml`} {
		if !strings.Contains(notes, want) {
			t.Errorf("no %q in\n%s", want, notes)
		}
	}
}

// TestTable: the chart's README names each value that there is, and no other.
func TestTable(t *testing.T) {
	t.Parallel()
	text, err := fs.ReadFile(chart.Files(), "README.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, line := range strings.Split(string(text), "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 3 {
			for _, name := range regexp.MustCompile("`([a-zA-Z.]+)`").FindAllStringSubmatch(cells[1], -1) {
				named[name[1]] = true
			}
		}
	}
	// A value may stand there as a whole, or with all that is in it.
	var look func(prefix string, all map[string]any)
	look = func(prefix string, all map[string]any) {
		for key, value := range all {
			name := prefix + key
			inner, ok := value.(map[string]any)
			switch {
			case named[name]:
				delete(named, name)
			case ok && len(inner) > 0:
				look(name+".", inner)
			default:
				t.Errorf("README.md does not name %s", name)
			}
		}
	}
	look("", load(t).Values)
	for name := range named {
		t.Errorf("README.md names %s, which values.yaml does not have", name)
	}
}

// TestGatewayService: the API server looks for the addresses of a Service that has any
// outside of the cluster.
func TestGatewayService(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]bool{"ClusterIP": false, "NodePort": true, "LoadBalancer": true} {
		manifest := mustRender(t, "gateway: {type: "+kind+"}").manifest
		if got := strings.Contains(manifest, "- --gateway-service="+namespace+"/clustermesh-apiserver\n"); got != want {
			t.Errorf("%s: the argument is there: %t, want %t", kind, got, want)
		}
	}
}
