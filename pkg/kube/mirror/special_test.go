package mirror

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// TestMirrorable asks a real API server which addresses it takes: all that it refuses
// we leave out, and what pods may have we do not.
func TestMirrorable(t *testing.T) {
	plane := planes.Start(t)
	var manifest strings.Builder
	addresses := map[string]bool{ // whether the API server takes it
		"127.0.0.1": false, "127.255.0.9": false, "0.0.0.0": false, "169.254.0.1": false, "169.254.169.254": false, "224.0.0.1": false,
		"::": false, "::1": false, "fe80::1": false, "febf::1": false, "ff02::1": false,
		"10.9.0.1": true, "100.64.0.1": true, "192.168.3.4": true, "8.8.8.8": true, "fd00::9": true, "2001:db8::1": true,
	}
	nameOf := func(ip netip.Addr) string { return fmt.Sprintf("special-%x", ip.AsSlice()) }
	for text := range addresses {
		ip := netip.MustParseAddr(text)
		family := "IPv4"
		if ip.Is6() {
			family = "IPv6"
		}
		fmt.Fprintf(&manifest, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s, namespace: default}\n"+
			"addressType: %s\nendpoints: [{addresses: [%q]}]\n", nameOf(ip), family, text)
	}
	_, err := plane.Kubectl(t.Context(), manifest.String(), "create", "--dry-run=server", "-f", "-")
	if err == nil {
		t.Fatal("the API server takes all of them")
	}
	for text, takes := range addresses {
		ip := netip.MustParseAddr(text)
		if refused := strings.Contains(err.Error(), fmt.Sprintf("%q is invalid", nameOf(ip))); refused == takes {
			t.Errorf("%s: the API server refuses it: %v", text, refused)
		}
		if got := service.Mirrorable(ip); got != takes {
			t.Errorf("%s: mirrored is %v, the API server takes it: %v", text, got, takes)
		}
	}
	// These it would take, and nothing could be sent there.
	for _, text := range []string{"239.1.2.3", "ff0e::1", "255.255.255.255", "::ffff:10.9.0.1", "fd00::9%eth0"} {
		if service.Mirrorable(netip.MustParseAddr(text)) {
			t.Errorf("%s is mirrored", text)
		}
	}
}

// TestMirrorSkipped tells of what a peer's service has that no object can hold.
func TestMirrorSkipped(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	name := service.Name{Namespace: namespace, Name: "web"}
	want := wanted(namespace, "web", uid, endpoints("10.9.0.1"))
	want.Unusable = []service.Unusable{{Cluster: "west", Count: 3, First: netip.MustParseAddr("127.0.0.1")}}
	x := newMesh(t)
	x.set(want)
	x.start(plane.Kubeconfig())
	untilAddresses(t, plane, namespace, "web", "10.9.0.1")
	told := func(is bool) {
		t.Helper()
		until(t, fmt.Sprintf("what is left out is told: %v", is), func() (string, bool) {
			x.mu.Lock()
			skipped := x.skipped[name]
			x.mu.Unlock()
			const text = "west gives 127.0.0.1 and 2 more"
			problems := strings.Join(x.mirror.Problems(), "\n")
			s, _ := x.mirror.Standing(name)
			for _, said := range []string{skipped, problems, s.Reason} {
				if strings.Contains(said, text) != is {
					return fmt.Sprintf("event %q, problems %q, standing %+v", skipped, problems, s), false
				}
			}
			return "", true
		})
	}
	told(true)
	want.Unusable = nil
	x.set(want)
	told(false)
}
