package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/publish"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// config is what flags and config file say.
type config struct {
	clusterName          string
	clusterID            uint32
	maxConnectedClusters uint32
	dataDir              string
	manifestsDir         string
	kubeconfig           string
	inCluster            bool
	agentAccount         string
	adminSecret          string
	authorityMap         string
	gatewayService       string
	stateSecret          string
	peersDir             string
	peerSecrets          string
	mirrorEndpoints      bool
	listen               string
	advertise            []string
	listenHTTP           string
	pprof                bool
	etcdQuota            int64
	etcdEndpoints        []string
	etcdFiles            pki.ClientFiles
	excludedLabels       []string
	meshCIDR             []string
	podCIDR              []string
	nodeCIDR             []string
	externalCIDR         []string
	reservedCIDR         []string
	routeMode            string
	peerRouteMode        map[string]string
	agentTTL             time.Duration
	peerTTL              time.Duration
}

func (c *config) flags(f *pflag.FlagSet) {
	f.StringVar(&c.clusterName, "cluster-name", "", "name of this cluster: 1 to 32 characters of a-z, 0-9 and '-' (required)")
	f.Uint32Var(&c.clusterID, "cluster-id", 0, "number of this cluster, 1 to the value of --max-connected-clusters, its own in the mesh (required)")
	f.Uint32Var(&c.maxConnectedClusters, "max-connected-clusters", uint32(cluster.Size255), "size of the mesh, 255 or 511; the same in every cluster")
	f.StringVar(&c.dataDir, "data-dir", "", "directory for etcd, the certificate authority and the last good manifests; made when missing (required)")
	f.StringVar(&c.manifestsDir, "manifests-dir", "", "directory of Kubernetes YAML or JSON that describes this cluster; must exist (this, --kubeconfig or --in-cluster is required)")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "`file` with which kubectl reaches this cluster: read the cluster from its Kubernetes API, by the file's current context")
	f.BoolVar(&c.inCluster, "in-cluster", false, "the same with the service account of the pod that this runs in")
	f.StringVar(&c.agentAccount, "agent-service-account", "", "`namespace/name` of the agents' service account: a pod of it gets the first certificate of its node's agent for its token of audience causeway; with --in-cluster or --kubeconfig (default: none)")
	f.StringVar(&c.adminSecret, "admin-secret", "", "`namespace/name` of a Secret that is kept to hold the admin file under admin.yaml, for the command line; with --in-cluster or --kubeconfig (default: none)")
	f.StringVar(&c.authorityMap, "authority-configmap", "", "`namespace/name` of a ConfigMap that is kept to hold the authority's certificate under ca.crt, for agents' pods; with --in-cluster or --kubeconfig (default: none)")
	f.StringVar(&c.stateSecret, "state-secret", "", "`namespace/name` of the first of the Secrets (NAME, NAME-1, ...) that are kept to hold what must outlive a --data-dir without a disk: the authority with its keys, joined clusters, invitations, allocations; an empty directory is filled from them; with --in-cluster or --kubeconfig (default: none)")
	f.StringVar(&c.peersDir, "peers-dir", "", "directory with an etcd client file for each peer, named like its cluster (default <data-dir>/peers, made when missing)")
	f.StringVar(&c.peerSecrets, "peer-secrets-namespace", "", "`namespace` of the Secrets that ClusterPeers may name; with --in-cluster or --kubeconfig (default: none, they may name none)")
	f.BoolVar(&c.mirrorEndpoints, "mirror-endpoints", true, "write the backends of other clusters into the Kubernetes API as EndpointSlices, for Services that ask for it; with --in-cluster or --kubeconfig")
	f.StringVar(&c.listen, "listen", ":8474", "host:port of the gateway, the one port that peers, agents and the command line use")
	f.StringSliceVar(&c.advertise, "advertise", nil, "names and addresses by which the gateway is reached, for its certificate, besides that of --listen")
	f.StringVar(&c.gatewayService, "gateway-service", "", "`namespace/name` of the Service that leads other clusters to the gateway: where --advertise is empty they are told its load balancer's or external addresses, else its port on nodes that are ready; with --in-cluster or --kubeconfig (default: none)")
	f.StringVar(&c.listenHTTP, "listen-http", "127.0.0.1:9878", "host:port for /healthz, /readyz and /metrics, plain HTTP; empty for none")
	f.BoolVar(&c.pprof, "pprof", false, "serve Go runtime profiles under /debug/pprof/ of --listen-http")
	f.Int64Var(&c.etcdQuota, "etcd-quota-bytes", 2<<30, "size of the embedded etcd's database at which it takes no more writes")
	f.StringSliceVar(&c.etcdEndpoints, "etcd-endpoints", nil,
		"https://host:port of an external etcd, several with commas; several API servers of the cluster may share it, and one of them writes (default: embedded in <data-dir>/etcd)")
	f.StringVar(&c.etcdFiles.CAFile, "etcd-ca-file", "", "`file` with the CA that signed the external etcd's certificate")
	f.StringVar(&c.etcdFiles.CertFile, "etcd-cert-file", "", "`file` with the certificate to show to the external etcd")
	f.StringVar(&c.etcdFiles.KeyFile, "etcd-key-file", "", "`file` with the certificate's private key")
	f.StringSliceVar(&c.excludedLabels, "identity-excluded-labels", identity.DefaultExcluded(),
		"pod labels that do not count for identities; an entry that ends in '*' is a prefix; replaces the default")
	f.StringSliceVar(&c.meshCIDR, "mesh-cidr", nil,
		"`range` that nothing else uses in any cluster, one a family with commas: each node gets an address of it, which peers are told (default: none)")
	f.StringSliceVar(&c.podCIDR, "pod-cidr", nil,
		"`ranges` of this cluster's pods, several with commas, to which clusters that join it hold it from then on (default: none, they agree to what it names first)")
	f.StringSliceVar(&c.nodeCIDR, "node-cidr", nil, "the same for the networks that its nodes are in; nodes of other clusters may be there, too")
	f.StringSliceVar(&c.externalCIDR, "external-cidr", nil, "the same for backends of its services that are neither pods nor nodes (default: none, when --pod-cidr or --node-cidr is given)")
	f.StringSliceVar(&c.reservedCIDR, "reserved-cidr", nil,
		"`ranges` where no other cluster may have pods, several with commas: this cluster's service ranges, and networks that its nodes use (default: none)")
	f.StringVar(&c.routeMode, "route-mode", modeAuto,
		"how packets get to other clusters, with --mesh-cidr: vxlan (a tunnel of our own), native (the network routes pods' addresses), or auto, which is native where probe pods find that this works both ways, else vxlan")
	f.StringToStringVar(&c.peerRouteMode, "peer-route-mode", nil, "the same for one peer, `peer=mode`, several with commas")
	f.DurationVar(&c.agentTTL, "agent-certificate-ttl", 7*24*time.Hour, "for how long agents' certificates are signed; they renew them at two thirds of it")
	f.DurationVar(&c.peerTTL, "peer-certificate-ttl", 30*24*time.Hour, "the same for peers' certificates")
}

// minTTL leaves a few seconds to try a renewal again; what runs for long wants
// days.
const minTTL = 10 * time.Second

// modeAuto is the mode that is chosen for the operator.
const modeAuto = "auto"

// validate returns the first thing that is wrong, by flag.
func (c *config) validate() error {
	for _, required := range []struct{ flag, value string }{
		{"--cluster-name", c.clusterName}, {"--data-dir", c.dataDir}, {"--listen", c.listen},
	} {
		if required.value == "" {
			return fmt.Errorf("%s is required", required.flag)
		}
	}
	if err := errors.Join(c.validateSource(), c.validateHandouts(), c.validateState()); err != nil {
		return err
	}
	if c.clusterID == 0 {
		return errors.New("--cluster-id is required: 1 or more, its own in the mesh")
	}
	if err := cluster.ValidateName(c.clusterName); err != nil {
		return fmt.Errorf("--cluster-name: %w", err)
	}
	if err := c.size().Validate(); err != nil {
		return fmt.Errorf("--max-connected-clusters: %w", err)
	}
	if err := c.size().ValidateID(cluster.ID(c.clusterID)); err != nil {
		return fmt.Errorf("--cluster-id: %w", err)
	}
	if _, err := identity.NewFilter(c.excludedLabels); err != nil {
		return fmt.Errorf("--identity-excluded-labels: %w", err)
	}
	if _, err := c.meshRanges(); err != nil {
		return fmt.Errorf("--mesh-cidr: %w", err)
	}
	if _, err := parseRanges(c.reservedCIDR); err != nil {
		return fmt.Errorf("--reserved-cidr: %w", err)
	}
	if _, err := c.claims(); err != nil {
		return err
	}
	if err := c.validateModes(); err != nil {
		return err
	}
	if err := validAddress(c.listen); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if c.listenHTTP != "" {
		if err := validAddress(c.listenHTTP); err != nil {
			return fmt.Errorf("--listen-http: %w", err)
		}
	}
	if err := errors.Join(c.validateStore(), c.validateGatewayService()); err != nil {
		return err
	}
	for flag, ttl := range map[string]time.Duration{"agent": c.agentTTL, "peer": c.peerTTL} {
		if ttl < minTTL {
			return fmt.Errorf("--%s-certificate-ttl: at least %s", flag, minTTL)
		}
	}
	if c.etcdQuota < 16<<20 {
		return errors.New("--etcd-quota-bytes: at least 16777216 (16 MiB)")
	}
	return nil
}

// meshRanges returns what nodes get their mesh addresses from.
func (c *config) meshRanges() ([]netip.Prefix, error) {
	ranges, err := parseRanges(c.meshCIDR)
	if err != nil {
		return nil, err
	}
	return ranges, publish.ValidateMeshRanges(ranges)
}

// reserved returns where no other cluster may have pods, with a valid configuration.
func (c *config) reserved() []netip.Prefix {
	var ranges []netip.Prefix
	for _, texts := range [][]string{c.meshCIDR, c.reservedCIDR} {
		some, _ := parseRanges(texts) // validate has said
		ranges = append(ranges, some...)
	}
	return ranges
}

func parseRanges(texts []string) ([]netip.Prefix, error) {
	ranges := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a range like 10.200.0.0/16", text)
		}
		if err := route.ValidatePrefix(p); err != nil {
			return nil, err
		}
		ranges = append(ranges, p)
	}
	return ranges, nil
}

func (c *config) validateModes() error {
	if _, err := routeMode(c.routeMode); err != nil {
		return fmt.Errorf("--route-mode: %w", err)
	}
	for peer, mode := range c.peerRouteMode {
		if err := cluster.ValidateName(peer); err != nil {
			return fmt.Errorf("--peer-route-mode: %w", err)
		}
		if _, err := routeMode(mode); err != nil {
			return fmt.Errorf("--peer-route-mode of %s: %w", peer, err)
		}
	}
	return nil
}

func routeMode(text string) (route.Mode, error) {
	if text == modeAuto {
		return route.VXLAN, nil
	}
	return route.ParseMode(text)
}

// modeText returns what the flags say of how packets get to a peer.
func (c *config) modeText(peer string) string {
	if text, ok := c.peerRouteMode[peer]; ok {
		return text
	}
	return c.routeMode
}

// auto reports whether it is to be found out how packets get to a peer.
func (c *config) auto(peer string) bool { return c.modeText(peer) == modeAuto }

// wayOf returns how packets get to a peer where the flags say that, else what found
// returns; validate has seen all modes.
func (c *config) wayOf(found func(peer string) (route.Mode, route.Search)) func(string) (route.Mode, route.Search) {
	return func(peer string) (route.Mode, route.Search) {
		if c.auto(peer) {
			return found(peer)
		}
		mode, _ := routeMode(c.modeText(peer))
		return mode, route.NoSearch
	}
}

func validAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Errorf("%q: port %q is not a number from 0 to 65535", address, port)
	}
	return nil
}

func (c *config) size() cluster.Size { return cluster.Size(c.maxConnectedClusters) }

// cluster is what peers are told about this one.
func (c *config) cluster() cluster.Config {
	exports := false
	return cluster.Config{
		Name: c.clusterName, ID: cluster.ID(c.clusterID), Size: c.size(), SyncedCanaries: true,
		ServiceExports: &exports, ExportMode: cluster.ExportServicesAndSlices,
	}
}

func (c *config) peers() string { return cmp.Or(c.peersDir, filepath.Join(c.dataDir, "peers")) }

// reachedBy returns the host names and addresses for the gateway's certificate.
func (c *config) reachedBy() (names []string, ips []netip.Addr) {
	host, _, _ := net.SplitHostPort(c.listen) // validate has seen it
	for _, h := range append([]string{host}, c.advertise...) {
		if ip, err := netip.ParseAddr(h); err == nil {
			if !ip.IsUnspecified() {
				ips = append(ips, ip)
			}
		} else if h != "" {
			names = append(names, h)
		}
	}
	return names, ips
}
