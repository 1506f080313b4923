package main

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// config is what the flags say.
type config struct {
	node, cluster string
	apiServer     string
	files         pki.ClientFiles
	tokenFile     string
	accountFile   string
	authorityFile string
	bpffs, cgroup string
	stateDir      string
	mapCapacity   uint32
	listenHTTP    string
	pprof         bool
	getpeername   string
	meshDevice    string
	meshPort      uint16
	attach        string
	observeSocket string
}

// defaultBPFFS is where agents have their pins.
const defaultBPFFS = "/sys/fs/bpf/causeway"

// The values of --getpeername.
const (
	peerBackend = "backend"
	peerService = "service"
)

// reverse returns for which sockets the way back is kept.
func (c *config) reverse() datapath.Reverse {
	if c.getpeername == peerService {
		return datapath.ReverseAll
	}
	return datapath.ReverseUDP
}

// socket returns the path of the socket for causeway observe, "" for none.
func (c *config) socket() string {
	switch {
	case c.observeSocket == "none", c.observeSocket == "" && c.stateDir == "":
		return ""
	case c.observeSocket == "":
		return filepath.Join(c.stateDir, "observe.sock")
	}
	return c.observeSocket
}

func (c *config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.node, "node-name", "", "`name` of this node, as its certificate says (required)")
	f.StringVar(&c.cluster, "cluster-name", "", "`name` of the cluster that this node belongs to (required)")
	f.StringVar(&c.apiServer, "api-server", "", "`host:port` of the gateway of the cluster's API server, several with commas where it has replicas (required)")
	f.StringVar(&c.files.CAFile, "ca-file", "", "`file` with the cluster's CA certificate (required)")
	f.StringVar(&c.files.CertFile, "cert-file", "", "`file` with this node's certificate (required)")
	f.StringVar(&c.files.KeyFile, "key-file", "", "`file` with the certificate's private key (required)")
	f.StringVar(&c.tokenFile, "join-token-file", "", "`file` with what causeway agent token printed: where there is no valid certificate, one is got for it, and the three files above are written")
	f.StringVar(&c.accountFile, "service-account-token-file", "", "in its place, in a pod: `file` with a projected service account token of audience causeway")
	f.StringVar(&c.authorityFile, "authority-file", "", "`file` with the cluster's CA certificate, by which the gateway is known before --service-account-token-file is told to it")
	f.StringVar(&c.bpffs, "bpffs-dir", defaultBPFFS, "`folder` on a BPF file system for what stays in the kernel")
	f.StringVar(&c.cgroup, "cgroup-root", "", "cgroup v2 `folder` above all workloads of the node (found when not given)")
	f.StringVar(&c.stateDir, "state-dir", "/var/lib/causeway/node-agent", "`folder` for the last state, this agent's alone, with which it starts when the API server is away; empty for none")
	f.Uint32Var(&c.mapCapacity, "map-capacity", datapath.DefaultCapacity, "`entries` that each eBPF map holds at most")
	f.StringVar(&c.getpeername, "getpeername", peerBackend, "what getpeername() says on sockets that asked a service: backend or service `address` (an entry in a map for each connection)")
	f.StringVar(&c.meshDevice, "mesh-device", host.DefaultDevice, "`name` of the tunnel device to other clusters, made where the node has a mesh address (--mesh-cidr of the API server)")
	f.Uint16Var(&c.meshPort, "mesh-port", host.DefaultPort, "UDP `port` of the tunnels, the same in all clusters and no other tunnel's")
	f.StringVar(&c.attach, "attach-method", string(packet.Auto), "`method` by which programs are attached to the tunnel device: tcx (Linux 6.6), clsact, or auto: tcx where the kernel has it")
	f.StringVar(&c.observeSocket, "observe-socket", "", "unix `socket` for causeway observe --agent-socket on this node, none for none (default observe.sock in --state-dir)")
	f.StringVar(&c.listenHTTP, "listen-http", "", "`address:port` for /healthz, /readyz and /metrics (none when not given)")
	f.BoolVar(&c.pprof, "pprof", false, "serve Go runtime profiles under /debug/pprof/ of --listen-http")
}

// maxDeviceName is what the kernel has room for.
const maxDeviceName = 15

func (c *config) validate() error {
	for _, required := range []struct{ flag, value string }{
		{"node-name", c.node},
		{"cluster-name", c.cluster},
		{"api-server", c.apiServer},
		{"ca-file", c.files.CAFile},
		{"cert-file", c.files.CertFile},
		{"key-file", c.files.KeyFile},
		{"bpffs-dir", c.bpffs},
	} {
		if required.value == "" {
			return fmt.Errorf("--%s is required", required.flag)
		}
	}
	if err := cluster.ValidateName(c.cluster); err != nil {
		return fmt.Errorf("--cluster-name: %w", err)
	}
	if c.tokenFile != "" && c.accountFile != "" {
		return errors.New("--join-token-file and --service-account-token-file: give one of them")
	}
	if (c.accountFile == "") != (c.authorityFile == "") {
		return errors.New("--service-account-token-file and --authority-file: each needs the other")
	}
	for target := range strings.SplitSeq(c.apiServer, ",") {
		if _, _, err := net.SplitHostPort(target); err != nil {
			return fmt.Errorf("--api-server: %w", err)
		}
	}
	if c.getpeername != "" && c.getpeername != peerBackend && c.getpeername != peerService {
		return fmt.Errorf("--getpeername: %q is neither %s nor %s", c.getpeername, peerBackend, peerService)
	}
	if c.meshPort == 0 {
		return errors.New("--mesh-port: 1 to 65535")
	}
	if c.meshDevice == "" || len(c.meshDevice) > maxDeviceName || strings.ContainsAny(c.meshDevice, "/ \t\n:") {
		return fmt.Errorf("--mesh-device: %q is no name for a device: 1 to %d characters without spaces, '/' and ':'", c.meshDevice, maxDeviceName)
	}
	if c.attach != "" && !packet.Method(c.attach).Valid() {
		return fmt.Errorf("--attach-method: %q is none of %s, %s and %s", c.attach, packet.Auto, packet.TCX, packet.Clsact)
	}
	if c.mapCapacity == 0 {
		return errors.New("--map-capacity: at least 1 entry is needed")
	}
	return nil
}
