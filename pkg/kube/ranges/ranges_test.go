package ranges

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Objects as clusters have them, with what says nothing here left out.
const (
	kubeadm = `{"metadata":{"name":"kubeadm-config","namespace":"kube-system"},"data":{"ClusterConfiguration":` +
		`"apiServer: {}\napiVersion: kubeadm.k8s.io/v1beta4\ncertificatesDir: /etc/kubernetes/pki\nclusterName: kind\nkind: ClusterConfiguration\n` +
		`kubernetesVersion: v1.34.0\nnetworking:\n  dnsDomain: cluster.local\n  podSubnet: 10.244.0.0/16\n  serviceSubnet: 10.96.0.0/16\n"}}`
	kubeadmDual = `{"metadata":{"name":"kubeadm-config","namespace":"kube-system"},"data":{"ClusterConfiguration":` +
		`"networking:\n  podSubnet: 10.244.0.0/16,fd00:10:244::/56\n  serviceSubnet: 10.96.0.0/16,fd00:10:96::/112\n"}}`
	kubeadmBare = `{"metadata":{"name":"kubeadm-config","namespace":"kube-system"},"data":{"ClusterConfiguration":` +
		`"networking:\n  dnsDomain: cluster.local\n  serviceSubnet: 10.96.0.0/12\n"}}`
	kubeadmTorn = `{"metadata":{"name":"kubeadm-config","namespace":"kube-system"},"data":{"ClusterConfiguration":"networking: [\n"}}`
	flannel     = `{"metadata":{"name":"kube-flannel-cfg","namespace":"kube-flannel"},"data":{"cni-conf.json":"{}",` +
		`"net-conf.json":"{\n  \"Network\": \"10.244.0.0/16\",\n  \"EnableNFTables\": false,\n  \"Backend\": {\n    \"Type\": \"vxlan\"\n  }\n}\n"}}`
	flannelDual = `{"metadata":{"name":"kube-flannel-cfg","namespace":"kube-flannel"},"data":{` +
		`"net-conf.json":"{\"Network\":\"10.42.0.0/16\",\"EnableIPv6\":true,\"IPv6Network\":\"2001:db8:42::/56\"}"}}`
	proxy = `{"metadata":{"name":"kube-proxy","namespace":"kube-system"},"data":{"config.conf":` +
		`"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nbindAddress: 0.0.0.0\nclusterCIDR: 10.244.0.0/16\nkind: KubeProxyConfiguration\nmode: iptables\n"}}`
	proxyEmpty = `{"metadata":{"name":"kube-proxy","namespace":"kube-system"},"data":{"config.conf":"clusterCIDR: \"\"\nmode: ipvs\n"}}`
	pool       = `{"metadata":{"name":"default-ipv4-ippool"},"spec":{"allowedUses":["Workload","Tunnel"],"blockSize":26,"cidr":"192.168.0.0/16","ipipMode":"Never","natOutgoing":true,"nodeSelector":"all()","vxlanMode":"Always"}}`
	poolSix    = `{"metadata":{"name":"default-ipv6-ippool"},"spec":{"blockSize":122,"cidr":"fd20::/48"}}`
	poolOff    = `{"metadata":{"name":"old"},"spec":{"cidr":"172.20.0.0/16","disabled":true}}`
	poolTunnel = `{"metadata":{"name":"tunnels"},"spec":{"cidr":"172.21.0.0/16","allowedUses":["Tunnel"]}}`
	ciliumPool = `{"metadata":{"name":"cilium-config","namespace":"kube-system"},"data":{"ipam":"cluster-pool","enable-ipv4":"true","enable-ipv6":"false",` +
		`"cluster-pool-ipv4-cidr":"10.0.0.0/9 10.200.0.0/16","cluster-pool-ipv4-mask-size":"24","cluster-pool-ipv6-cidr":"fd00::/104"}}`
	ciliumKubernetes = `{"metadata":{"name":"cilium-config","namespace":"kube-system"},"data":{"ipam":"kubernetes","enable-ipv4":"true","cluster-pool-ipv4-cidr":"10.0.0.0/8"}}`
	ciliumMulti      = `{"metadata":{"name":"cilium-config","namespace":"kube-system"},"data":{"ipam":"multi-pool"}}`
	ciliumPodPool    = `{"metadata":{"name":"default"},"spec":{"ipv4":{"cidrs":["10.10.0.0/16"],"maskSize":27},"ipv6":{"cidrs":["fd00:100::/80"],"maskSize":96}}}`
	ciliumNode       = `{"metadata":{"name":"one"},"spec":{"ipam":{"podCIDRs":["10.10.3.0/24"]}}}`
	controllers      = `{"metadata":{"name":"kube-controller-manager-cp","namespace":"kube-system","labels":{"component":"kube-controller-manager"}},` +
		`"spec":{"hostNetwork":true,"containers":[{"command":["kube-controller-manager","--allocate-node-cidrs=true","--cluster-cidr=10.48.0.0/14","--service-cluster-ip-range=10.52.0.0/20"]}]},` +
		`"status":{"phase":"Running","podIPs":[{"ip":"172.18.0.2"}]}}`
	serviceCIDR = `{"metadata":{"name":"kubernetes"},"spec":{"cidrs":["10.96.0.0/16"]}}`
	serviceMore = `{"metadata":{"name":"more"},"spec":{"cidrs":["10.112.0.0/20"]}}`
	nodeOne     = `{"metadata":{"name":"one"},"spec":{"podCIDR":"10.42.0.0/24","podCIDRs":["10.42.0.0/24"]}}`
	nodeTwo     = `{"metadata":{"name":"two"},"spec":{"podCIDR":"10.42.1.0/24"}}`
	nodeK3s     = `{"metadata":{"name":"k3s","annotations":{"k3s.io/node-args":"[\"server\",\"--cluster-cidr\",\"10.42.0.0/16\",\"--service-cidr\",\"10.43.0.0/16\"]"}},"spec":{"podCIDRs":["10.42.2.0/24"]}}`
	podHost     = `{"metadata":{"name":"proxy","namespace":"kube-system"},"spec":{"hostNetwork":true},"status":{"phase":"Running","podIPs":[{"ip":"172.18.0.2"}]}}`
	podDone     = `{"metadata":{"name":"job","namespace":"a"},"status":{"phase":"Succeeded","podIPs":[{"ip":"10.9.9.9"}]}}`
	service     = `{"metadata":{"name":"kubernetes","namespace":"default"},"spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"]}}`
	headless    = `{"metadata":{"name":"db","namespace":"a"},"spec":{"clusterIP":"None","clusterIPs":["None"]}}`
)

func podAt(ip string) string {
	return `{"metadata":{"name":"web","namespace":"a"},"spec":{"containers":[{"name":"web"}]},"status":{"phase":"Running","podIPs":[{"ip":"` + ip + `"}]}}`
}

type object struct{ kind, text string }

func configMaps(texts ...string) (out []object) {
	for _, text := range texts {
		out = append(out, object{KindConfigMap, text})
	}
	return out
}

func with(more []object, kind string, texts ...string) []object {
	for _, text := range texts {
		more = append(more, object{kind, text})
	}
	return more
}

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		objects        []object
		pods, services string // as List says it
		podsFrom       string
		servicesFrom   string
		notes          []string // a part of each, of pods and then of services
		observed       string
	}{
		"nothing": {},
		"kind": {
			objects: with(with(configMaps(kubeadm, proxy), KindServiceCIDR, serviceCIDR), KindPod, podAt("10.244.1.4"), podHost),
			pods:    "10.244.0.0/16", podsFrom: "ConfigMap kube-system/kubeadm-config",
			services: "10.96.0.0/16", servicesFrom: "ServiceCIDR kubernetes", observed: "10.244.0.0/16",
		},
		"kubeadm of both families": {
			objects: configMaps(kubeadmDual),
			pods:    "10.244.0.0/16,fd00:10:244::/56", podsFrom: "ConfigMap kube-system/kubeadm-config",
			services: "10.96.0.0/16,fd00:10:96::/112", servicesFrom: "ConfigMap kube-system/kubeadm-config",
		},
		"kubeadm with flannel": {
			objects: configMaps(kubeadm, flannel, proxy),
			pods:    "10.244.0.0/16", podsFrom: "ConfigMap kube-flannel/kube-flannel-cfg",
			services: "10.96.0.0/16", servicesFrom: "ConfigMap kube-system/kubeadm-config",
		},
		"flannel of both families": {
			objects: configMaps(flannelDual), pods: "10.42.0.0/16,2001:db8:42::/56", podsFrom: "ConfigMap kube-flannel/kube-flannel-cfg",
		},
		"kubeadm with Calico's own range": {
			objects: with(with(configMaps(kubeadm), KindIPPool, pool, poolSix, poolOff, poolTunnel), KindPod, podAt("192.168.4.3")),
			pods:    "192.168.0.0/16,fd20::/48", podsFrom: "IPPool default-ipv4-ippool, default-ipv6-ippool",
			services: "10.96.0.0/16", servicesFrom: "ConfigMap kube-system/kubeadm-config", observed: "192.168.0.0/16",
			notes: []string{"kubeadm-config says 10.244.0.0/16 for pods, and IPPool default-ipv4-ippool, default-ipv6-ippool says 192.168.0.0/16, fd20::/48, which is taken"},
		},
		"Calico that is there no more": {
			objects: with(with(configMaps(kubeadm), KindIPPool, pool), KindPod, podAt("10.244.0.3"), podAt("10.244.7.3")),
			pods:    "10.244.0.0/16", podsFrom: "ConfigMap kube-system/kubeadm-config",
			services: "10.96.0.0/16", servicesFrom: "ConfigMap kube-system/kubeadm-config", observed: "10.244.0.0/16",
			notes: []string{"IPPool default-ipv4-ippool says 192.168.0.0/16 for pods, and ConfigMap kube-system/kubeadm-config says 10.244.0.0/16"},
		},
		"Cilium's pools": {
			objects: with(configMaps(kubeadmBare, ciliumPool, proxyEmpty), KindCiliumNode, ciliumNode),
			pods:    "10.0.0.0/9,10.200.0.0/16", podsFrom: "ConfigMap kube-system/cilium-config",
			services: "10.96.0.0/12", servicesFrom: "ConfigMap kube-system/kubeadm-config",
		},
		"Cilium with nodes' ranges": {
			objects: with(configMaps(ciliumKubernetes), KindNode, nodeOne, nodeTwo),
			pods:    "10.42.0.0/23", podsFrom: "Node one, two",
			notes: []string{"a node that is added has another: give the whole range (perhaps 10.42.0.0/16)"},
		},
		"Cilium of several pools": {
			objects: with(with(configMaps(ciliumMulti), KindCiliumPodPool, ciliumPodPool), KindCiliumNode, ciliumNode),
			pods:    "10.10.0.0/16,fd00:100::/80", podsFrom: "CiliumPodIPPool default",
		},
		"flags of the control plane": {
			objects: with(nil, KindPod, controllers),
			pods:    "10.48.0.0/14", podsFrom: "flags of Pod kube-system/kube-controller-manager-cp",
			services: "10.52.0.0/20", servicesFrom: "flags of Pod kube-system/kube-controller-manager-cp",
		},
		"kube-proxy alone": {objects: configMaps(proxy), pods: "10.244.0.0/16", podsFrom: "ConfigMap kube-system/kube-proxy"},
		"k3s": {
			objects: with(nil, KindNode, nodeOne, nodeTwo, nodeK3s),
			pods:    "10.42.0.0/16", podsFrom: "annotation k3s.io/node-args of Node k3s",
			services: "10.43.0.0/16", servicesFrom: "annotation k3s.io/node-args of Node k3s",
		},
		"pods and services alone": {
			objects:  with(with(nil, KindPod, podAt("10.4.1.2"), podAt("10.4.200.2"), podAt("fd00:1:2:3::4"), podHost, podDone), KindService, service, headless),
			observed: "10.4.0.0/16,fd00:1:2::/48",
		},
		"Services in a second range": {
			objects:  with(configMaps(kubeadm), KindServiceCIDR, serviceCIDR, serviceMore),
			services: "10.96.0.0/16,10.112.0.0/20", servicesFrom: "ServiceCIDR kubernetes, more",
			pods: "10.244.0.0/16", podsFrom: "ConfigMap kube-system/kubeadm-config",
		},
		"pods outside of all": {
			objects: with(configMaps(kubeadm), KindPod, podAt("10.244.0.3"), podAt("100.64.0.3")),
			pods:    "10.244.0.0/16", podsFrom: "ConfigMap kube-system/kubeadm-config",
			services: "10.96.0.0/16", servicesFrom: "ConfigMap kube-system/kubeadm-config", observed: "10.244.0.0/16,100.64.0.0/16",
			notes: []string{"1 of 2 addresses of pods that were looked at are outside of 10.244.0.0/16 that ConfigMap kube-system/kubeadm-config says: they are in 100.64.0.0/16"},
		},
		"what does not parse": {
			objects: with(with(configMaps(kubeadmTorn), KindIPPool, `{"metadata":{"name":"p"},"spec":{"cidr":"10.1/16"}}`), KindNode, `[`),
			notes:   []string{"an object Node does not parse", `IPPool p says "10.1/16", which is no range`, "kubeadm-config does not parse"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var o Objects
			for _, one := range test.objects {
				o.Add(one.kind, []byte(one.text))
			}
			got := Decide(&o)
			want := []string{test.pods, test.podsFrom, test.services, test.servicesFrom, test.observed}
			is := []string{List(got.Pods.Ranges), got.Pods.From, List(got.Services.Ranges), got.Services.From, List(got.Pods.Observed)}
			if diff := cmp.Diff(want, is); diff != "" {
				t.Errorf("pods, from, services, from, observed (-want +got):\n%s", diff)
			}
			notes := append(got.Pods.Notes, got.Services.Notes...)
			if len(notes) != len(test.notes) {
				t.Fatalf("notes are %q, want %q", notes, test.notes)
			}
			for i := range notes {
				if !strings.Contains(notes[i], test.notes[i]) {
					t.Errorf("note %q, want %q in it", notes[i], test.notes[i])
				}
			}
		})
	}
}

// TestCommandOf finds the container of a part of the control plane among others.
func TestCommandOf(t *testing.T) {
	t.Parallel()
	const sidecar = `{"name":"proxy","command":["proxy","--cluster-cidr=10.1.0.0/16"]}`
	for name, test := range map[string]struct{ component, containers, want string }{
		"one":                     {"kube-controller-manager", `{"command":["kube-controller-manager","--cluster-cidr=10.2.0.0/16"]}`, "10.2.0.0/16"},
		"the second":              {"kube-controller-manager", sidecar + `,{"command":["/usr/local/bin/kube-controller-manager"],"args":["--cluster-cidr","10.2.0.0/16"]}`, "10.2.0.0/16"},
		"the image has it":        {"kube-controller-manager", sidecar + `,{"name":"kube-controller-manager","args":["--cluster-cidr=10.2.0.0/16"]}`, "10.2.0.0/16"},
		"something starts it":     {"kube-controller-manager", sidecar + `,{"name":"main","command":["/go-runner","--log-file=/l","/bin/kube-controller-manager","--cluster-cidr=10.2.0.0/16"]}`, "10.2.0.0/16"},
		"one that waits for it":   {"kube-controller-manager", `{"command":["wait","kube-controller-manager","--cluster-cidr=10.1.0.0/16"]},{"command":["kube-controller-manager","--cluster-cidr=10.2.0.0/16"]}`, "10.2.0.0/16"},
		"another name, but alone": {"kube-controller-manager", `{"command":["hyperkube","--cluster-cidr=10.2.0.0/16"]}`, "10.2.0.0/16"},
		"none of several":         {"kube-controller-manager", sidecar + "," + sidecar, ""},
		"no containers":           {"kube-controller-manager", "", ""},
		"another component":       {"etcd", sidecar, ""},
	} {
		var o Objects
		o.Add(KindPod, []byte(`{"metadata":{"name":"p","namespace":"kube-system","labels":{"component":"`+test.component+`"}},"spec":{"containers":[`+test.containers+`]}}`))
		if got := List(Decide(&o).Pods.Ranges); got != test.want {
			t.Errorf("%s: the range is %q, want %q", name, got, test.want)
		}
	}
}

func parse(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestAggregate(t *testing.T) {
	for _, test := range []struct{ give, want []netip.Prefix }{
		{nil, nil},
		{parse("10.1.0.0/24", "10.0.0.0/24", "10.0.1.0/24"), parse("10.0.0.0/23", "10.1.0.0/24")},
		{parse("10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24", "10.0.2.0/23"), parse("10.0.0.0/22")},
		{parse("10.0.1.0/24", "10.0.2.0/24"), parse("10.0.1.0/24", "10.0.2.0/24")},
		{parse("10.0.0.0/8", "10.3.0.0/16", "fd00::/64", "fd00:0:0:1::/64"), parse("10.0.0.0/8", "fd00::/63")},
		{parse("0.0.0.0/1", "128.0.0.0/1"), parse("0.0.0.0/0")},
	} {
		got := Aggregate(test.give)
		if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("Aggregate(%v) (-want +got):\n%s", test.give, diff)
		}
	}
}

func TestDiffer(t *testing.T) {
	found := Part{Ranges: parse("10.244.0.0/16"), From: "ConfigMap kube-system/kubeadm-config"}
	observed := Part{Observed: parse("10.4.0.0/16")}
	for name, test := range map[string]struct {
		part Part
		said []netip.Prefix
		want string
	}{
		"nothing at all":     {},
		"the same":           {part: found, said: parse("10.244.0.0/16")},
		"in halves":          {part: found, said: parse("10.244.128.0/17", "10.244.0.0/17")},
		"more is said":       {part: found, said: parse("10.240.0.0/12")},
		"nothing is said":    {part: found, want: "kubeadm-config has 10.244.0.0/16 for pods, and --pod-cidr says nothing: give --pod-cidr=10.244.0.0/16"},
		"less is said":       {part: found, said: parse("10.244.0.0/17"), want: "and --pod-cidr says 10.244.0.0/17: 10.244.0.0/16 is missing"},
		"another is said":    {part: found, said: parse("10.1.0.0/16"), want: "10.244.0.0/16 is missing"},
		"nothing is found":   {said: parse("10.1.0.0/16")},
		"only observed":      {part: observed, want: "those that there are have addresses in 10.4.0.0/16: give the range by --pod-cidr"},
		"observed, and said": {part: observed, said: parse("10.0.0.0/8")},
	} {
		got := test.part.Differ(Pods, "--pod-cidr", test.said)
		if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q in it", name, got, test.want)
		}
	}
}

func TestLines(t *testing.T) {
	f := Found{
		Pods:     Part{Ranges: parse("10.0.0.0/16", "10.2.0.0/16", "10.4.0.0/16", "10.6.0.0/16", "10.8.0.0/16", "10.10.0.0/16", "10.12.0.0/16"), From: "8 objects Node", Notes: []string{"a note"}},
		Services: Part{Observed: parse("10.96.0.0/16")}, Unread: []string{"/api/v1/nodes"},
	}
	want := []string{
		"pods: 10.0.0.0/16, 10.2.0.0/16, 10.4.0.0/16, 10.6.0.0/16, 10.8.0.0/16, 10.10.0.0/16, 1 more (8 objects Node)", "a note",
		"services: not found; those that there are have addresses in 10.96.0.0/16", "not read: /api/v1/nodes",
	}
	if diff := cmp.Diff(want, f.Lines()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f = Found{}
	if diff := cmp.Diff([]string{"pods: not found", "services: not found"}, f.Lines()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
