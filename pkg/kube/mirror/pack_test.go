package mirror

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/causeway-mesh/causeway/pkg/service"
)

func endpoints(addresses ...string) []service.Endpoint {
	var out []service.Endpoint
	for _, a := range addresses {
		out = append(out, service.Endpoint{
			Addresses: []netip.Addr{netip.MustParseAddr(a)}, Condition: service.Condition{Ready: true, Serving: true},
		})
	}
	return out
}

// many are n backends, those of an odd number in another order than by address.
func many(n int) []service.Endpoint {
	var out []service.Endpoint
	for i := range n {
		out = append(out, endpoints(fmt.Sprintf("10.9.%d.%d", i/250, 1+i%250))...)
	}
	return out
}

func httpOn(number uint16) []service.Port {
	return []service.Port{{Name: "http", Protocol: service.TCP, Port: number}}
}

// wanted is a service with one set of endpoints of the cluster west.
func wanted(namespace, name, uid string, list []service.Endpoint) service.Mirrored {
	return service.Mirrored{
		Name: service.Name{Namespace: namespace, Name: name}, UID: uid,
		Sets: []service.MirrorSet{{Cluster: "west", Ports: httpOn(8080), Endpoints: list}},
	}
}

// TestPack checks what an object says, to the last field.
func TestPack(t *testing.T) {
	want := wanted("shop", "web", "u-1", endpoints("10.9.0.1", "10.9.0.2"))
	want.Headless = true
	want.Sets[0].Endpoints[0].Hostname = "web-0"
	want.Sets[0].Endpoints[1].Hostname = "Not A Host"
	want.Sets[0].Endpoints[1].Condition = service.Condition{Serving: true, Terminating: true}
	want.Sets = append(want.Sets, service.MirrorSet{Cluster: "west", IPv6: true, Endpoints: endpoints("fd00::9")})
	got := pack(&want)
	if len(got) != 2 {
		t.Fatalf("%d objects, want one for each family", len(got))
	}
	for name, o := range got {
		if o.Name != name || o.Namespace != "shop" || o.Kind != "EndpointSlice" || o.APIVersion != "discovery.k8s.io/v1" {
			t.Errorf("%s is %s %s %s/%s", name, o.APIVersion, o.Kind, o.Namespace, o.Name)
		}
		labels := map[string]string{
			"endpointslice.kubernetes.io/managed-by": "causeway.io", "kubernetes.io/service-name": "web",
			"causeway.io/source-cluster": "west", "service.kubernetes.io/headless": "",
		}
		if diff := cmp.Diff(labels, o.Labels); diff != "" {
			t.Errorf("labels of %s (-want +got):\n%s", name, diff)
		}
		if owner := o.OwnerReferences; len(owner) != 1 || owner[0].Kind != "Service" || owner[0].APIVersion != "v1" || owner[0].Name != "web" || owner[0].UID != "u-1" {
			t.Errorf("owners of %s: %v", name, owner)
		}
		if o.AddressType == discoveryv1.AddressTypeIPv6 {
			if len(o.Ports) != 0 || o.Endpoints[0].Addresses[0] != "fd00::9" {
				t.Errorf("the IPv6 object has ports %v, endpoints %v", o.Ports, o.Endpoints)
			}
			continue
		}
		if p := o.Ports; len(p) != 1 || *p[0].Name != "http" || *p[0].Port != 8080 || string(*p[0].Protocol) != "TCP" || p[0].AppProtocol != nil {
			t.Errorf("ports: %v", p)
		}
		first, second := o.Endpoints[0], o.Endpoints[1]
		if first.Hostname == nil || *first.Hostname != "web-0" || !*first.Conditions.Ready || first.NodeName != nil || first.Zone != nil {
			t.Errorf("the first endpoint is %v", first)
		}
		if c := second.Conditions; second.Hostname != nil || *c.Ready || !*c.Serving || !*c.Terminating {
			t.Errorf("the second endpoint is %v", second)
		}
	}
}

// differing returns the names of objects that are not the same in both, or not in both.
func differing(a, b map[string]*discoveryv1.EndpointSlice) []string {
	var out []string
	for name := range a {
		if b[name] == nil || !same(a[name], b[name]) {
			out = append(out, name)
		}
	}
	for name := range b {
		if a[name] == nil {
			out = append(out, name)
		}
	}
	return out
}

// TestPackChangesOneObject takes backends away one at a time, and lets one change its
// state: of all that was written, one object differs, or those that are joined to one.
func TestPackChangesOneObject(t *testing.T) {
	t.Parallel()
	list := many(730)
	before := wanted("shop", "web", "u", list)
	old := pack(&before)
	total := 0
	for name, o := range old {
		if total += len(o.Endpoints); len(o.Endpoints) > service.MaxDivided {
			t.Errorf("%s has %d endpoints", name, len(o.Endpoints))
		}
	}
	if total != len(list) || len(old) > 20 {
		t.Fatalf("%d endpoints in %d objects", total, len(old))
	}
	for i := 0; i < len(list); i += 7 {
		changed := slices.Clone(list)
		changed[i].Condition = service.Condition{}
		other := wanted("shop", "web", "u", changed)
		if diff := differing(old, pack(&other)); len(diff) != 1 {
			t.Fatalf("another state of one backend changes %v", diff)
		}
		fewer := wanted("shop", "web", "u", slices.Delete(slices.Clone(list), i, i+1))
		if diff := differing(old, pack(&fewer)); len(diff) != 1 && len(diff) != 3 {
			t.Fatalf("one backend less changes %v", diff)
		}
	}
}

// TestPackTellsSetsApart checks that clusters, families and ports have objects of
// their own, and that what a service is called decides, too.
func TestPackTellsSetsApart(t *testing.T) {
	m := wanted("shop", "web", "u", endpoints("10.9.0.1"))
	m.Sets = append(m.Sets,
		service.MirrorSet{Cluster: "north", Ports: httpOn(8080), Endpoints: endpoints("10.9.0.1")},
		service.MirrorSet{Cluster: "west", Ports: httpOn(8081), Endpoints: endpoints("10.9.0.1")},
		service.MirrorSet{Cluster: "west", IPv6: true, Ports: httpOn(8080), Endpoints: endpoints("fd00::1")})
	if got := pack(&m); len(got) != 4 {
		t.Errorf("%d objects for four sets", len(got))
	}
	another := wanted("shop", "api", "u", endpoints("10.9.0.1"))
	if diff := differing(pack(&m), pack(&another)); len(diff) != 5 {
		t.Errorf("two services share objects: %v differ of five", diff)
	}
}
