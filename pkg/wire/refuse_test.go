package wire_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

type refusal struct {
	name  string
	value string
	want  error
}

// instead returns the golden value with one part of it replaced.
func instead(t *testing.T, golden, old, replacement string) string {
	t.Helper()
	if !strings.Contains(golden, old) {
		t.Fatalf("%s is not in %s", old, golden)
	}
	return strings.Replace(golden, old, replacement, 1)
}

// checkRefused wants each value refused with its sentinel, and with a text
// short enough for a log line whatever the value holds.
func checkRefused(t *testing.T, refusals []refusal, decode func(value []byte) error) {
	t.Helper()
	refusals = append(refusals,
		refusal{"empty", "", wire.ErrMalformed},
		refusal{"too large", strings.Repeat(" ", wire.MaxValueBytes+1), wire.ErrTooLarge},
	)
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			err := decode([]byte(r.value))
			if !errors.Is(err, r.want) {
				t.Errorf("got %v, want %v", err, r.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

// notJSON are refused by every kind of JSON value.
func notJSON(golden string) []refusal {
	return []refusal{
		{"not JSON", "\x00", wire.ErrMalformed},
		{"cut off", golden[:len(golden)-1], wire.ErrMalformed},
		{"trailing", golden + "{}", wire.ErrMalformed},
		{"array", "[]", wire.ErrMalformed},
		{"deep", strings.Repeat("[", 60_000), wire.ErrMalformed},
	}
}

func TestRefusedConfigs(t *testing.T) {
	checkRefused(t, append(notJSON(goldenConfig),
		refusal{"id 0", instead(t, goldenConfig, `"id":1`, `"id":0`), cluster.ErrID},
		refusal{"no id", `{}`, cluster.ErrID},
		refusal{"id 256", instead(t, goldenConfig, `"id":1`, `"id":256`), cluster.ErrID},
		refusal{"negative id", instead(t, goldenConfig, `"id":1`, `"id":-1`), wire.ErrMalformed},
		refusal{"size", instead(t, goldenConfig, `255`, `256`), cluster.ErrSize},
		refusal{"mode", instead(t, goldenConfig, `services-and`, `\u001b`), wire.ErrMalformed},
	), func(value []byte) error {
		_, err := wire.DecodeConfig("c1", value)
		return err
	})
	if _, err := wire.DecodeConfig("C1", []byte(goldenConfig)); !errors.Is(err, cluster.ErrName) {
		t.Errorf("bad name: %v", err)
	}
	if _, err := wire.EncodeConfig(cluster.Config{Name: "c1", ID: 256, Size: cluster.Size255}); !errors.Is(err, cluster.ErrID) {
		t.Errorf("encode: %v", err)
	}
}

func TestRefusedNodes(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	change := func(name, old, replacement string, want error) refusal {
		return refusal{name, instead(t, goldenNode, old, replacement), want}
	}
	checkRefused(t, append(notJSON(goldenNode),
		change("other cluster", `"c1"`, `"c12"`, wire.ErrWrongCluster),
		change("other name", `"node-1"`, `"node-2"`, wire.ErrMismatch),
		change("long name", `"node-1"`, `"`+strings.Repeat("n", 100000)+`"`, wire.ErrMismatch),
		change("cluster id", `"ClusterID":1`, `"ClusterID":512`, wire.ErrMalformed),
		change("address", `172.18.0.2`, `172.18.0.256`, wire.ErrMalformed),
		change("mapped address", `172.18.0.2`, `::ffff:172.18.0.2`, wire.ErrMalformed),
		change("address type", `InternalIP`, `\u001b[2J`, wire.ErrMalformed),
		change("label that is no UTF-8", `"zone"`, "\"zone\xff\"", wire.ErrMalformed),
		change("mask length", `////AA==`, `////`, wire.ErrMalformed),
		change("mask with holes", `////AA==`, `/wD/AA==`, wire.ErrMalformed),
		change("no mask", `"////AA=="`, `null`, wire.ErrMalformed),
		change("host bits", `"10.1.0.0"`, `"10.1.0.1"`, wire.ErrMalformed),
		change("wrong family", `"IP":"10.1.0.0","Mask":"////AA=="`, `"IP":"fd00::","Mask":"//////////8AAAAAAAAAAA=="`, wire.ErrMalformed),
		change("null range", `"IPv4SecondaryAllocCIDRs":null`, `"IPv4SecondaryAllocCIDRs":[null]`, wire.ErrMalformed),
		change("secondary alone", `"IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null`,
			`"IPv4SecondaryAllocCIDRs":[{"IP":"10.1.0.0","Mask":"////AA=="}]`, wire.ErrMalformed),
		change("health of the other family", `"IPv6HealthIP":""`, `"IPv6HealthIP":"10.1.0.9"`, wire.ErrMalformed),
		change("ingress", `"IPv4IngressIP":""`, `"IPv4IngressIP":"x"`, wire.ErrMalformed),
		change("key", `"EncryptionKey":0`, `"EncryptionKey":256`, wire.ErrMalformed),
		change("boot id", `"boot"`, `"`+strings.Repeat("b", 2000)+`"`, wire.ErrTooLarge),
		change("labels", `{"zone":"a"}`, manyLabels(), wire.ErrTooLarge),
	), func(value []byte) error {
		_, err := l.DecodeNode(l.NodeKey("node-1"), value)
		return err
	})
}

// manyLabels is a JSON object of more entries than any list of labels has.
func manyLabels() string {
	entries := make([]string, 5000)
	for i := range entries {
		entries[i] = fmt.Sprintf(`"l%d":""`, i)
	}
	return "{" + strings.Join(entries, ",") + "}"
}

func TestRefusedAddresses(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	change := func(name, old, replacement string, want error) refusal {
		return refusal{name, instead(t, goldenAddress, old, replacement), want}
	}
	checkRefused(t, append(notJSON(goldenAddress),
		change("other address", `10.1.0.5`, `10.1.0.6`, wire.ErrMismatch),
		change("no address", `10.1.0.5`, ``, wire.ErrMalformed),
		change("mapped address", `10.1.0.5`, `::ffff:10.1.0.5`, wire.ErrMalformed),
		change("mask of all bits", `"Mask":null`, `"Mask":"/////w=="`, wire.ErrMalformed),
		change("mask", `"IP":"10.1.0.5","Mask":null`, `"IP":"10.1.0.0","Mask":"////AA=="`, wire.ErrMismatch),
		change("empty mask", `"Mask":null`, `"Mask":""`, wire.ErrMalformed),
		change("host", `172.18.0.2`, `node-1`, wire.ErrMalformed),
		change("identity", `65836`, `4294967296`, wire.ErrMalformed),
		change("pod", `web-0`, `web_0`, wire.ErrMalformed),
		change("namespace", `default`, `\u001b`, wire.ErrMalformed),
		change("service account", `"sa"`, `"-"`, wire.ErrMalformed),
		change("port", `80`, `65536`, wire.ErrMalformed),
		change("port name", `http`, `\n`, wire.ErrMalformed),
		change("protocol", `TCP`, `tcp`, wire.ErrMalformed),
		change("metadata", `"Metadata":""`, `"Metadata":"\u0007"`, wire.ErrMalformed),
	), func(value []byte) error {
		_, err := l.DecodeAddress(l.AddressKey(prefix("10.1.0.5/32")), value)
		return err
	})
}

func TestRefusedIdentities(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	own := "k8s:io.cilium.k8s.policy.cluster=c1;"
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "k8s:l%d=;", i)
	}
	// "too large" of every kind is text here, and is refused for its size.
	checkRefused(t, []refusal{
		{"other cluster", instead(t, goldenIdentity, "cluster=c1", "cluster=c12"), wire.ErrWrongCluster},
		{"no cluster", "k8s:app=web;", wire.ErrWrongCluster},
		{"cluster of another source", "any:io.cilium.k8s.policy.cluster=c1;", wire.ErrWrongCluster},
		{"two clusters", own + "k8s:io.cilium.k8s.policy.cluster=c2;", wire.ErrMalformed},
		{"not ended", own + "k8s:app=web", wire.ErrMalformed},
		{"no source", own + "app=web;", wire.ErrMalformed},
		{"no value", own + "k8s:app;", wire.ErrMalformed},
		{"control character", own + "k8s:app=\x1b[2J;", wire.ErrMalformed},
		{"not UTF-8", own + "k8s:app=\xff;", wire.ErrMalformed},
		{"many", own + many.String(), wire.ErrTooLarge},
		{"not text", goldenAddress, wire.ErrMalformed},
	}, func(value []byte) error {
		if len(value) == 0 {
			value = []byte(";")
		}
		_, err := l.DecodeIdentity(l.IdentityKey(65836), value)
		return err
	})
}

func TestRefusedServices(t *testing.T) {
	l := wire.Layout{Cluster: "c1"}
	change := func(name, old, replacement string, want error) refusal {
		return refusal{name, instead(t, goldenService, old, replacement), want}
	}
	backend := `{"10.1.0.5":{"http":{"Protocol":"TCP","Port":8080}}}`
	zones := strings.Repeat(`{"name":"a"},`, 101)
	checkRefused(t, append(notJSON(goldenService),
		change("other cluster", `"c1"`, `"c12"`, wire.ErrWrongCluster),
		change("other namespace", `"default"`, `"other"`, wire.ErrMismatch),
		change("other name", `"web"`, `"web2"`, wire.ErrMismatch),
		change("cluster id", `"clusterID":1`, `"clusterID":1000`, wire.ErrMalformed),
		change("frontend", `10.96.0.7`, `10.96.0.7@2`, wire.ErrMalformed),
		change("backend", `10.1.0.5`, `fe80::1%eth0`, wire.ErrMalformed),
		change("twice", backend, `{"fd00::1":{},"fd00::0001":{}}`, wire.ErrMalformed),
		change("null port", backend, `{"10.1.0.5":{"http":null}}`, wire.ErrMalformed),
		change("no number", backend, `{"10.1.0.5":{"http":{"Protocol":"TCP"}}}`, wire.ErrMalformed),
		change("number", `8080`, `80800`, wire.ErrMalformed),
		change("protocol", `TCP`, `ICMP`, wire.ErrMalformed),
		change("port name", `"http"`, `"\u001b"`, wire.ErrMalformed),
		change("hostname", `"web-0"`, `"\u001b"`, wire.ErrMalformed),
		change("zone", `"zone":"a"`, `"zone":"\u0000"`, wire.ErrMalformed),
		change("zone hint", `{"name":"a"}`, `{"name":"\u0000"}`, wire.ErrMalformed),
		change("zone hints", `{"name":"a"}`, strings.TrimSuffix(zones, ","), wire.ErrTooLarge),
		change("selector", `"selector":{"app":"web"}`, `"selector":`+manyLabels(), wire.ErrTooLarge),
	), func(value []byte) error {
		_, err := l.DecodeService(l.ServiceKey(service.Name{Namespace: "default", Name: "web"}), value)
		return err
	})
}

// TestRefusedKeysOfValues: a decoder looks at its key before the value.
func TestRefusedKeysOfValues(t *testing.T) {
	l := wire.Layout{Cluster: "c2"}
	decoders := map[string]func(string) error{
		"cilium/state/nodes/v1/c1/node-1":            func(k string) error { _, err := l.DecodeNode(k, []byte(goldenNode)); return err },
		"cilium/cache/ip/v1/c1/10.1.0.5":             func(k string) error { _, err := l.DecodeAddress(k, []byte(goldenAddress)); return err },
		"cilium/cache/identities/v1/c1/id/65836":     func(k string) error { _, err := l.DecodeIdentity(k, []byte(goldenIdentity)); return err },
		"cilium/state/services/v1/c1/default/web":    func(k string) error { _, err := l.DecodeService(k, []byte(goldenService)); return err },
		"cilium/state/endpointslices/v1/c1/a/b":      func(k string) error { _, err := l.DecodeSlice(k, nil); return err },
		"cilium/state/endpointslices/v1/c2-c1/web/b": func(k string) error { _, err := l.DecodeSlice(k, nil); return err },
	}
	for _, key := range slices.Sorted(maps.Keys(decoders)) {
		if err := decoders[key](key); !errors.Is(err, wire.ErrWrongCluster) {
			t.Errorf("%s: %v, want %v", key, err, wire.ErrWrongCluster)
		}
	}
}

// TestRefusedEncodings: what a reader would refuse is not written.
func TestRefusedEncodings(t *testing.T) {
	encodings := map[string]func() ([]byte, error){
		"node": func() ([]byte, error) {
			n := goldenNodeValue()
			n.Name = "Node"
			return wire.EncodeNode(n)
		},
		"node address": func() ([]byte, error) {
			n := goldenNodeValue()
			n.Addresses = append(n.Addresses, node.Address{})
			return wire.EncodeNode(n)
		},
		"node health": func() ([]byte, error) {
			n := goldenNodeValue()
			n.HealthIPs = ips("10.0.0.1", "10.0.0.2")
			return wire.EncodeNode(n)
		},
		"node label": func() ([]byte, error) {
			n := goldenNodeValue()
			n.Labels = map[string]string{"a": "\xff"}
			return wire.EncodeNode(n)
		},
		"address": func() ([]byte, error) { return wire.EncodeAddress(&endpoint.Address{}) },
		"address host bits": func() ([]byte, error) {
			return wire.EncodeAddress(&endpoint.Address{Prefix: prefix("10.0.0.1/8")})
		},
		"address metadata": func() ([]byte, error) {
			a := goldenAddressValue()
			a.Metadata = "\xff"
			return wire.EncodeAddress(a)
		},
		"identity 0": func() ([]byte, error) {
			return wire.EncodeIdentity(&identity.Identity{Labels: goldenIdentityValue().Labels})
		},
		"identity labels": func() ([]byte, error) {
			return wire.EncodeIdentity(&identity.Identity{Number: 256, Labels: "k8s:b=;k8s:a=;"})
		},
		"service port twice": func() ([]byte, error) {
			s := goldenServiceValue()
			s.Backends[0].Ports = append(s.Backends[0].Ports, s.Backends[0].Ports...)
			return wire.EncodeService(s)
		},
		"service backend twice": func() ([]byte, error) {
			s := goldenServiceValue()
			s.Backends = append(s.Backends, s.Backends...)
			return wire.EncodeService(s)
		},
		"slice without service": func() ([]byte, error) {
			return wire.EncodeSlice(&service.Slice{Cluster: "c1", Namespace: "a", Name: "b"})
		},
	}
	for _, name := range slices.Sorted(maps.Keys(encodings)) {
		value, err := encodings[name]()
		if !errors.Is(err, wire.ErrMalformed) || value != nil {
			t.Errorf("%s: %q, %v, want %v", name, value, err, wire.ErrMalformed)
		}
	}
	if _, err := wire.EncodeIdentity(&identity.Identity{Number: 256, Labels: "k8s:app=web;"}); !errors.Is(err, wire.ErrWrongCluster) {
		t.Errorf("identity without cluster: %v", err)
	}
}

// TestLargestService: as many backends as fit, and one error for more.
func TestLargestService(t *testing.T) {
	s := goldenServiceValue()
	s.Backends = nil
	for i := range 40000 {
		s.Backends = append(s.Backends, service.Backend{
			IP:    ip(fmt.Sprintf("10.1.%d.%d", i>>8, i&255)),
			Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 8080}},
		})
	}
	if value, err := wire.EncodeService(s); !errors.Is(err, wire.ErrTooLarge) || value != nil {
		t.Errorf("%d bytes, %v, want %v", len(value), err, wire.ErrTooLarge)
	}
	s.Backends = s.Backends[:20000]
	if _, err := wire.EncodeService(s); err != nil {
		t.Error(err)
	}
}
