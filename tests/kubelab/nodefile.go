package kubelab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Names on a node.
const (
	// PauseImage holds the namespaces of a pod. Nodes need an archive with it.
	PauseImage = "localhost/kubelab/pause:1"
	pluginDir  = "/usr/lib/cni"
)

// containerdConfig: images are small, so each container has a copy of its own,
// which works on every file system.
const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "PLUGINS"
    conf_dir = "DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

const networkConfig = `{"cniVersion": "0.4.0", "name": "node", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": MASQUERADE,
   "ipam": {"type": "host-local", "dataDir": "/run/ipam", "ranges": [[{"subnet": "PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`

// kubeletConfig: the machine's memory and disks are not the node's to judge.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /GROUP
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: AUTHORITY}}
authorization: {mode: Webhook}
resolvConf: ""
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
syncFrequency: 5s
nodeStatusUpdateFrequency: 5s
`

// apiServerSlice is where the Service kubernetes leads on a node.
const apiServerSlice = `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [ADDRESS], conditions: {ready: true}}]
ports: [{name: https, port: PORT, protocol: TCP}]
`

// writeFiles writes what node.sh and its programs read into the node's folder.
func (n *Node) writeFiles() error {
	fill := strings.NewReplacer("PAUSE", PauseImage, "PLUGINS", pluginDir, "PODS", n.podRange, "MASQUERADE", strconv.FormatBool(n.masquerade),
		"DIR", n.dir.path, "GROUP", filepath.Base(n.dir.path), "AUTHORITY", n.plane.path("ca.crt"))
	if err := os.Mkdir(n.path("cni"), 0o700); err != nil {
		return err
	}
	files := map[string][]byte{
		n.path("containerd.toml"):        []byte(fill.Replace(containerdConfig)),
		n.path("cni", "bridge.conflist"): []byte(fill.Replace(networkConfig)),
		n.path("kubelet.yaml"):           []byte(fill.Replace(kubeletConfig)),
	}
	if err := writeFiles(files); err != nil {
		return err
	}
	authority := *n.plane.authority
	authority.dir = n.dir.path
	if err := authority.kubeconfig("kubelet.conf", n.plane.URL(), "system:node:"+n.name, "system:nodes"); err != nil {
		return err
	}
	return authority.kubeconfig("proxy.conf", n.plane.URL(), "system:kube-proxy", "")
}
