package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/route"
)

func parse(t *testing.T, args ...string) *config {
	t.Helper()
	var c config
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	c.flags(f)
	good := []string{"--cluster-name=east", "--cluster-id=1", "--data-dir=/d", "--manifests-dir=/m"}
	if err := f.Parse(append(good, slices.DeleteFunc(args, func(a string) bool { return a == "" })...)); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct{ arg, want string }{
		{"", ""},
		{"--cluster-id=255", ""},
		{"--cluster-id=0", "--cluster-id is required"},
		{"--cluster-id=256", "--cluster-id: cluster id 256 is not within 1 to 255"},
		{"--max-connected-clusters=300", "--max-connected-clusters"},
		{"--cluster-name=", "--cluster-name is required"},
		{"--cluster-name=East", "--cluster-name"},
		{"--cluster-name=" + strings.Repeat("a", 33), "1 to 32 characters"},
		{"--data-dir=", "--data-dir is required"},
		{"--manifests-dir=", "one of --manifests-dir, --kubeconfig and --in-cluster is required"},
		{"--kubeconfig=/k", "give one of them"},
		{"--in-cluster", "give one of them"},
		{"--listen=8474", "--listen"},
		{"--listen=:70000", "--listen"},
		{"--listen-http=x", "--listen-http"},
		{"--etcd-quota-bytes=1", "--etcd-quota-bytes"},
		{"--agent-certificate-ttl=1s", "--agent-certificate-ttl"},
		{"--peer-certificate-ttl=0s", "--peer-certificate-ttl"},
		{"--peer-certificate-ttl=2160h", ""},
		{"--identity-excluded-labels=a*b", "--identity-excluded-labels"},
		{"--mesh-cidr=10.200.0.0/16,fd00:200::/64", ""},
		{"--mesh-cidr=10.200.0.0", "--mesh-cidr: \"10.200.0.0\" is not a range"},
		{"--mesh-cidr=10.200.0.1/16", "--mesh-cidr: prefix 10.200.0.1/16"},
		{"--mesh-cidr=10.200.0.0/16,10.201.0.0/16", "--mesh-cidr: ranges 10.200.0.0/16 and 10.201.0.0/16"},
		{"--reserved-cidr=10.96.0.0/12,10.97.0.0/16,fd00:96::/108", ""},
		{"--reserved-cidr=10.96.0.0", "--reserved-cidr: \"10.96.0.0\" is not a range"},
		{"--reserved-cidr=10.96.0.1/12", "--reserved-cidr: prefix 10.96.0.1/12"},
		{"--pod-cidr=10.1.0.0/16,fd00:1::/48", ""},
		{"--pod-cidr=10.1.0.0", "--pod-cidr: \"10.1.0.0\" is not a range"},
		{"--node-cidr=0.0.0.0/0", "--node-cidr: prefix 0.0.0.0/0"},
		{"--external-cidr=10.1.0.1/16", "--external-cidr: prefix 10.1.0.1/16"},
	} {
		err := parse(t, tc.arg).validate()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want one that says %q", tc.arg, err, tc.want)
		}
	}
}

func TestReserved(t *testing.T) {
	c := parse(t, "--mesh-cidr=10.200.0.0/16", "--reserved-cidr=10.96.0.0/12,fd00:96::/108")
	if got, want := fmt.Sprint(c.reserved()), "[10.200.0.0/16 10.96.0.0/12 fd00:96::/108]"; got != want {
		t.Errorf("reserved %s, want %s", got, want)
	}
}

func TestRouteModes(t *testing.T) {
	c := parse(t, "--route-mode=native", "--peer-route-mode=west=auto,north=vxlan")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	found := func(peer string) (route.Mode, route.Search) { return route.Native, route.Search("found of " + peer) }
	type way struct {
		mode   route.Mode
		search route.Search
	}
	for peer, want := range map[string]way{
		"west": {route.Native, "found of west"}, "north": {route.VXLAN, route.NoSearch}, "south": {route.Native, route.NoSearch},
	} {
		if mode, search := c.wayOf(found)(peer); (way{mode, search}) != want || c.auto(peer) != (peer == "west") {
			t.Errorf("%s: %s, %s, want %v", peer, mode, search, want)
		}
	}
	if _, search := parse(t).wayOf(found)("west"); search != "found of west" {
		t.Errorf("unless told otherwise: %s", search)
	}
	for _, bad := range []string{"--route-mode=tunnel", "--peer-route-mode=west=geneve", "--peer-route-mode=WEST=vxlan"} {
		if err := parse(t, bad).validate(); err == nil || !strings.Contains(err.Error(), bad[:12]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestReachedBy(t *testing.T) {
	names, ips := parse(t, "--listen=10.0.0.1:1", "--advertise=mesh.example.com,fd00::1").reachedBy()
	if !slices.Equal(names, []string{"mesh.example.com"}) {
		t.Errorf("names %v", names)
	}
	if !slices.Equal(ips, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}) {
		t.Errorf("addresses %v", ips)
	}
	if names, ips := parse(t, "--listen=:1").reachedBy(); len(names)+len(ips) != 0 {
		t.Errorf("an address of every interface names nobody, got %v %v", names, ips)
	}
}
