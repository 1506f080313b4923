package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/kube/ranges"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

func TestCompareRanges(t *testing.T) {
	found := func() *ranges.Found {
		return &ranges.Found{
			Pods: ranges.Part{
				Ranges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, From: "ConfigMap kube-system/kubeadm-config", Notes: []string{"another place says 10.1.0.0/16"},
			},
			Services: ranges.Part{Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, From: "ServiceCIDR kubernetes"},
		}
	}
	for name, test := range map[string]struct {
		args []string
		want []string // a part of each
	}{
		"nothing is said": {want: []string{"give --pod-cidr=10.244.0.0/16", "another place", "give --reserved-cidr=10.96.0.0/16"}},
		"all is said":     {args: []string{"--pod-cidr=10.244.0.0/16", "--reserved-cidr=10.96.0.0/12,192.168.1.0/24"}},
		"another is said": {args: []string{"--pod-cidr=10.245.0.0/16", "--reserved-cidr=10.96.0.0/16"}, want: []string{"10.244.0.0/16 is missing", "another place"}},
		"only for nodes":  {args: []string{"--node-cidr=10.244.0.0/16", "--reserved-cidr=10.96.0.0/16"}, want: []string{"--pod-cidr says nothing", "another place"}},
	} {
		c := parse(t, test.args...)
		got := c.compareRanges(found())
		if len(got) != len(test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], test.want[i]) {
				t.Errorf("%s: %q, want %q in it", name, got[i], test.want[i])
			}
		}
	}
}

// TestRangesInStatus shows what the Kubernetes API says where the flags say nothing;
// with the flags that it names nothing is left to say.
func TestRangesInStatus(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	err := plane.Apply(t.Context(), `apiVersion: v1
kind: ConfigMap
metadata: {name: kubeadm-config, namespace: kube-system}
data: {ClusterConfiguration: "networking: {podSubnet: 10.244.0.0/16}"}
`)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--data-dir=" + t.TempDir(), "--manifests-dir=", "--kubeconfig=" + plane.Kubeconfig(), "--listen=127.0.0.1:0", "--listen-http="}
	c := parse(t, args...)
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	r := startRun(t, c)
	r.until("what is found", func(s *adminpb.StatusResponse) bool {
		notes := strings.Join(s.GetSource().GetRangeNotes(), "\n")
		return strings.Contains(notes, "give --pod-cidr=10.244.0.0/16") && strings.Contains(notes, "give --reserved-cidr="+kubelab.ServiceCIDR)
	})
	r.until("ready all the same", func(s *adminpb.StatusResponse) bool { return s.GetReady() })
	r.stop()

	r = startRun(t, parse(t, append(args, "--pod-cidr=10.244.0.0/16", "--reserved-cidr="+kubelab.ServiceCIDR)...))
	r.until("nothing to say", func(s *adminpb.StatusResponse) bool {
		return r.has("looked for the ranges of this cluster") && len(s.GetSource().GetRangeNotes()) == 0
	})
}
