package wire_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// The values that the protocol's own types marshal, byte for byte.
const (
	goldenConfig = `{"id":1,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":true,"endpointSlicesExportMode":"services-and-endpointslices"}}`

	goldenNode = `{"Name":"node-1","Cluster":"c1","IPAddresses":[{"Type":"InternalIP","IP":"172.18.0.2"},{"Type":"CiliumInternalIP","IP":"10.1.0.1"}],"IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":{"IP":"fd00::","Mask":"//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"10.1.0.9","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":1,"Source":"custom-resource","EncryptionKey":0,"Labels":{"zone":"a"},"Annotations":null,"WireguardPubKey":"pk","BootID":"boot"}`

	goldenAddress = `{"IP":"10.1.0.5","Mask":null,"HostIP":"172.18.0.2","ID":65836,"Key":0,"Metadata":"","K8sNamespace":"default","K8sPodName":"web-0","K8sServiceAccount":"sa","NamedPorts":[{"Name":"http","Port":80,"Protocol":"TCP"}]}`

	goldenIdentity = `k8s:app=web;k8s:io.cilium.k8s.policy.cluster=c1;k8s:io.cilium.k8s.policy.serviceaccount=sa;k8s:io.kubernetes.pod.namespace=default;`

	goldenService = `{"cluster":"c1","namespace":"default","name":"web","frontends":{"10.96.0.7":{"http":{"Protocol":"TCP","Port":80}}},"backends":{"10.1.0.5":{"http":{"Protocol":"TCP","Port":8080}}},"hostnames":{"10.1.0.5":"web-0"},"zones":{"10.1.0.5":{"zone":"a","forZones":[{"name":"a"}]}},"labels":{"app":"web"},"selector":{"app":"web"},"includeExternal":true,"shared":true,"clusterID":1}`
)

func goldenConfigValue() cluster.Config {
	exports := true
	return cluster.Config{
		Name: "c1", ID: 1, Size: cluster.Size255, SyncedCanaries: true,
		ServiceExports: &exports, ExportMode: cluster.ExportServicesAndSlices,
	}
}

func goldenNodeValue() *node.Node {
	return &node.Node{
		Cluster: "c1", ClusterID: 1, Name: "node-1",
		Addresses: []node.Address{
			{Type: node.InternalIP, IP: ip("172.18.0.2")},
			{Type: node.CiliumInternalIP, IP: ip("10.1.0.1")},
		},
		PodCIDRs:     prefixes("10.1.0.0/24", "fd00::/64"),
		HealthIPs:    ips("10.1.0.9"),
		Labels:       map[string]string{"zone": "a"},
		WireguardKey: "pk",
		BootID:       "boot",
		Source:       "custom-resource",
	}
}

func goldenAddressValue() *endpoint.Address {
	return &endpoint.Address{
		Cluster: "c1", Prefix: prefix("10.1.0.5/32"), HostIP: ip("172.18.0.2"), Identity: 65836,
		Namespace: "default", Pod: "web-0", ServiceAccount: "sa",
		NamedPorts: []endpoint.NamedPort{{Name: "http", Port: 80, Protocol: "TCP"}},
	}
}

func goldenIdentityValue() *identity.Identity {
	return &identity.Identity{Number: 65836, Labels: identity.NewLabels("k8s", map[string]string{
		"app":                        "web",
		identity.LabelCluster:        "c1",
		identity.LabelServiceAccount: "sa",
		identity.LabelNamespace:      "default",
	})}
}

func goldenServiceValue() *service.Service {
	return &service.Service{
		Name:    service.Name{Namespace: "default", Name: "web"},
		Cluster: "c1", ClusterID: 1,
		Frontends: []service.Frontend{{IP: ip("10.96.0.7"), Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80}}}},
		Backends: []service.Backend{{
			IP: ip("10.1.0.5"), Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 8080}},
			Hostname: "web-0", Zone: "a", ForZones: []string{"a"},
		}},
		Labels:   map[string]string{"app": "web"},
		Selector: map[string]string{"app": "web"},
		Global:   true, Shared: true,
	}
}

func TestGoldenConfig(t *testing.T) {
	checkGolden(t, goldenConfig, goldenConfigValue(), encodeConfig, func(value []byte) (cluster.Config, error) {
		return wire.DecodeConfig("c1", value)
	})
}

// encodeConfig is a config that says nothing of the gateway.
func encodeConfig(c cluster.Config) ([]byte, error) { return wire.EncodeConfig(c) }

// What a config says of the gateway is beside what the reference says, and nothing of it
// makes a config that can not be used.
func TestGateway(t *testing.T) {
	addresses := []string{"192.0.2.1:8474", "[2001:db8::1]:8474"}
	value, err := wire.EncodeConfig(goldenConfigValue(), addresses...)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSuffix(goldenConfig, "}") + `,"causeway":{"gateway":["192.0.2.1:8474","[2001:db8::1]:8474"]}}`; string(value) != want {
		t.Errorf("encoded as %s, want %s", value, want)
	}
	if got := wire.DecodeGateway(value); !slices.Equal(got, addresses) {
		t.Errorf("decoded as %q", got)
	}
	for _, text := range []string{`1`, `{"gateway":1}`, `{"gateway":[1]}`, `{"gateway":{}}`, `null`, `{}`} {
		value := []byte(strings.TrimSuffix(goldenConfig, "}") + `,"causeway":` + text + `}`)
		if got := wire.DecodeGateway(value); got != nil {
			t.Errorf("%s: decoded as %q", text, got)
		}
		if config, err := wire.DecodeConfig("c1", value); err != nil || config.ID != 1 {
			t.Errorf("%s: %+v, %v", text, config, err)
		}
	}
	for _, text := range []string{"", "{", strings.Repeat("x", wire.MaxValueBytes+1)} {
		if got := wire.DecodeGateway([]byte(text)); got != nil {
			t.Errorf("%.10q: decoded as %q", text, got)
		}
	}
}

func TestGoldenValues(t *testing.T) {
	for _, l := range layouts("c1") {
		root := map[bool]string{false: "cilium/state/", true: "cilium/cache/"}[l.Cached]
		t.Run(root, func(t *testing.T) {
			checkGolden(t, goldenNode, goldenNodeValue(), wire.EncodeNode, at(l.DecodeNode, root+"nodes/v1/c1/node-1"))
			addressKey, identityKey := root+"ip/v1/default/10.1.0.5", root+"identities/v1/id/65836"
			if l.Cached {
				addressKey, identityKey = root+"ip/v1/c1/10.1.0.5", root+"identities/v1/c1/id/65836"
			}
			checkGolden(t, goldenAddress, goldenAddressValue(), wire.EncodeAddress, at(l.DecodeAddress, addressKey))
			checkGolden(t, goldenIdentity, goldenIdentityValue(), wire.EncodeIdentity, at(l.DecodeIdentity, identityKey))
			checkGolden(t, goldenService, goldenServiceValue(), wire.EncodeService, at(l.DecodeService, root+"services/v1/c1/default/web"))
		})
	}
}

// at binds a decoder to a key.
func at[T any](decode func(string, []byte) (T, error), key string) func([]byte) (T, error) {
	return func(value []byte) (T, error) { return decode(key, value) }
}

func checkGolden[T any](t *testing.T, golden string, want T, encode func(T) ([]byte, error), decode func([]byte) (T, error)) {
	t.Helper()
	got, err := decode([]byte(golden))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareValues); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	value, err := encode(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(golden, string(value)); diff != "" {
		t.Errorf("encoded (-want +got):\n%s", diff)
	}
}

// TestSparseValues has what the golden values leave out, and what publishers
// leave out that know less than we do.
func TestSparseValues(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	exactly := func(t *testing.T, want, got any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareValues); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	t.Run("config of an old publisher", func(t *testing.T) {
		got, err := wire.DecodeConfig("c1", []byte(`{"id":7,"capabilities":{}}`))
		exactly(t, cluster.Config{Name: "c1", ID: 7, Size: cluster.Size255}, got, err)
	})
	t.Run("config of a hub", func(t *testing.T) {
		got, err := wire.DecodeConfig("c1", []byte(`{"id":300,"capabilities":{"cached":true,"maxConnectedClusters":511},"later":1}`))
		exactly(t, cluster.Config{Name: "c1", ID: 300, Size: cluster.Size511, Cached: true}, got, err)
	})
	t.Run("bare node", func(t *testing.T) {
		got, err := l.DecodeNode(l.NodeKey("n"), []byte(`{"Name":"n","Cluster":"c1","Labels":{}}`))
		exactly(t, &node.Node{Cluster: "c1", Name: "n"}, got, err)
	})
	t.Run("node with everything", func(t *testing.T) {
		n := goldenNodeValue()
		n.PodCIDRs = prefixes("10.1.0.0/24", "fd00::/64", "10.2.0.0/23", "10.3.0.0/25", "fd01::/64")
		n.HealthIPs, n.IngressIPs = ips("10.1.0.9", "fd00::9"), ips("10.1.0.8", "fd00::8")
		n.Annotations, n.EncryptionKey = map[string]string{"a": "b"}, 3
		value, err := wire.EncodeNode(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.DecodeNode(l.NodeKey(n.Name), value)
		exactly(t, n, got, err)
	})
	t.Run("range", func(t *testing.T) {
		for _, text := range []string{"10.1.0.0/20", "0.0.0.0/0", "fd00:1::/47", "::/0"} {
			a := &endpoint.Address{Cluster: "c1", Prefix: prefix(text), Identity: identity.World, Metadata: "cidr"}
			value, err := wire.EncodeAddress(a)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.DecodeAddress(l.AddressKey(a.Prefix), value)
			exactly(t, a, got, err)
		}
	})
	t.Run("IPv6 address", func(t *testing.T) {
		got, err := l.DecodeAddress("cilium/state/ip/v1/default/fd00::5", []byte(`{"IP":"fd00::5","HostIP":"","ID":6}`))
		exactly(t, &endpoint.Address{Cluster: "c1", Prefix: prefix("fd00::5/128"), Identity: identity.RemoteNode}, got, err)
	})
	t.Run("unsorted identity", func(t *testing.T) {
		got, err := l.DecodeIdentity(l.IdentityKey(65836), []byte(
			`k8s:io.kubernetes.pod.namespace=default;k8s:app=web;k8s:io.cilium.k8s.policy.serviceaccount=sa;k8s:io.cilium.k8s.policy.cluster=c1;`))
		exactly(t, goldenIdentityValue(), got, err)
	})
	t.Run("headless service without anything", func(t *testing.T) {
		s := &service.Service{Name: service.Name{Namespace: "a", Name: "b"}, Cluster: "c1", ClusterID: 2}
		value, err := wire.EncodeService(s)
		exactly(t, `{"cluster":"c1","namespace":"a","name":"b","frontends":{},"backends":{},"labels":{},"selector":{},"includeExternal":false,"shared":false,"clusterID":2}`,
			string(value), err)
		got, err := l.DecodeService(l.ServiceKey(s.Name), value)
		exactly(t, s, got, err)
	})
}

// TestServiceOrder decodes one service from two spellings of it.
func TestServiceOrder(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	got, err := l.DecodeService(l.ServiceKey(service.Name{Namespace: "a", Name: "b"}), []byte(`{"cluster":"c1","namespace":"a","name":"b",
		"backends":{"fd00::1":{},"10.0.0.10":{"z":{"Protocol":"TCP","Port":1},"a":{"Protocol":"UDP","Port":2},"":{"Protocol":"SCTP","Port":3}},"10.0.0.9":null}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []service.Backend{
		{IP: ip("10.0.0.9")},
		{IP: ip("10.0.0.10"), Ports: []service.Port{
			{Protocol: service.SCTP, Port: 3},
			{Name: "a", Protocol: service.UDP, Port: 2},
			{Name: "z", Protocol: service.TCP, Port: 1},
		}},
		{IP: ip("fd00::1")},
	}
	if diff := cmp.Diff(want, got.Backends, compareValues); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
