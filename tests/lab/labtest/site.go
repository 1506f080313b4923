package labtest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// Faces are the kinds of nodes that routed clusters have, by name.
func Faces() map[string]lab.Network {
	return map[string]lab.Network{
		"plain":              {Kind: lab.Routed},
		"strict return path": {Kind: lab.Routed, StrictReturnPath: true},
		"source tables":      {Kind: lab.Routed, SourceTables: true},
		"forward drop":       {Kind: lab.Routed, DropForward: true},
		"all at once":        {Kind: lab.Routed, StrictReturnPath: true, SourceTables: true, DropForward: true},
		"ptp":                {Kind: lab.Routed, Plugin: "ptp"},
		"bridge":             {Kind: lab.Routed, Plugin: "bridge"},
		"ptp, all at once": {
			Kind: lab.Routed, Plugin: "ptp", StrictReturnPath: true, SourceTables: true, DropForward: true, PodMTU: 9001,
		},
	}
}

// Underlay is which families the nodes of a Site have.
type Underlay string

// The families.
const (
	IPv4 Underlay = "IPv4"
	IPv6 Underlay = "IPv6"
	Dual Underlay = "dual"
)

// Site is a made-up cluster whose addresses tell what they belong to. ID is at
// most 9. Of cluster 2:
//
//   - node n1 has 192.0.2.21, 2001:db8::21 and the pod ranges 10.2.1.0/24,
//     fd00:2:1::/64; node n2 has 192.0.2.22 and so on;
//   - pod shop/client is 10.2.1.10 and fd00:2:1::10 on n1; shop/web is 10.2.2.10
//     and fd00:2:2::10 on n2 and answers at 8080, by TCP and UDP; shop/host has
//     n2's addresses and answers at 8081;
//   - service shop/web, a global one, is at 10.96.0.10 and fd00:96::10, port 80;
//   - with More set there are nodes n3 and so on, so many; pod shop/web-3 is
//     10.2.3.10 and fd00:2:3::10 on n3, answers as web does and is no part of the
//     service;
//   - with Mesh set, nodes have mesh addresses of 10.202.0.0/24, fd00:202::/64.
type Site struct {
	Name     string
	ID       int
	Underlay Underlay
	Network  lab.Network
	Mesh     bool
	More     int
}

// AddSite adds the cluster, without its daemons.
func AddSite(t testing.TB, l *lab.Lab, s Site) *lab.Cluster {
	t.Helper()
	if s.Network.Plugin != "" {
		RequirePlugins(t)
	}
	file := filepath.Join(t.TempDir(), s.Name+".yaml")
	if err := os.WriteFile(file, []byte(s.manifests()), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := lab.ClusterSpec{Name: s.Name, ID: s.ID, Manifests: file, Network: s.Network}
	if s.Mesh {
		spec.MeshRanges = s.MeshRanges()
	}
	c, err := l.AddCluster(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// RequirePlugins skips the test where there are no CNI plugins, or fails it where
// CI=true.
func RequirePlugins(t testing.TB) {
	t.Helper()
	err := lab.HavePlugins()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// MeshRanges are those of the Site, IPv4 first.
func (s Site) MeshRanges() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.20%d.0.0/24", s.ID)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:20%d::/64", s.ID)),
	}
}

func (s Site) manifests() string {
	objects := []string{
		s.node(1), s.node(2),
		s.pod("client", 1, s.podIPs(1), "", "8080"),
		s.pod("web", 2, s.podIPs(2), "", "8080"),
		s.pod("host", 2, s.nodeIPs(2), "hostNetwork: true, ", "8081"),
		`apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {causeway.io/global: "true"}}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: tcp, port: 80, targetPort: 8080}, {name: udp, port: 80, targetPort: 8080, protocol: UDP}]
`,
	}
	for node := 3; node < 3+s.More; node++ {
		objects = append(objects, s.node(node), s.pod(fmt.Sprint("web-", node), node, s.podIPs(node), "", "8080"))
	}
	return strings.Join(objects, "---\n")
}

func (s Site) nodeIPs(node int) []string {
	var ips []string
	if s.Underlay != IPv6 {
		ips = append(ips, fmt.Sprintf("192.0.2.%d%d", s.ID, node))
	}
	if s.Underlay != IPv4 {
		ips = append(ips, fmt.Sprintf("2001:db8::%d%d", s.ID, node))
	}
	return ips
}

func (s Site) podIPs(node int) []string {
	return []string{fmt.Sprintf("10.%d.%d.10", s.ID, node), fmt.Sprintf("fd00:%d:%d::10", s.ID, node)}
}

func (s Site) node(node int) string {
	var addresses []string
	for _, ip := range s.nodeIPs(node) {
		addresses = append(addresses, fmt.Sprintf("{type: InternalIP, address: %q}", ip))
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata: {name: n%d}
spec: {podCIDRs: [10.%d.%[1]d.0/24, "fd00:%[2]d:%[1]d::/64"]}
status: {addresses: [%[3]s]}
`, node, s.ID, strings.Join(addresses, ", "))
}

func (s Site) pod(name string, node int, ips []string, spec, port string) string {
	var list []string
	for _, ip := range ips {
		list = append(list, fmt.Sprintf("{ip: %q}", ip))
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: %[1]s}}
spec:
  %[2]snodeName: n%[3]d
  containers: [{name: c, image: c, ports: [{containerPort: %[4]s}, {containerPort: %[4]s, protocol: UDP}]}]
status: {phase: Running, podIP: %[5]q, podIPs: [%[6]s], conditions: [{type: Ready, status: "True"}]}
`, name, strings.ReplaceAll(spec, ", ", "\n  "), node, port, ips[0], strings.Join(list, ", "))
}
