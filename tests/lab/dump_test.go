package lab_test

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

const dumps = "../testdata/dumps/"

// TestDumps makes the two dumped clusters real: exactly the pods that run and
// are ready, where the dump says, and all of them reach all.
func TestDumps(t *testing.T) {
	l := labtest.New(t)
	east := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	west := labtest.AddCluster(t, l, "west", 2, dumps+"west.yaml")

	var got []string
	for _, p := range slices.Concat(east.Pods(), west.Pods()) {
		got = append(got, p.String()+" "+p.On.Name+" "+p.IPs[0].String())
	}
	want := []string{
		"east/data/db-0 c1-n2 10.201.1.2",
		"east/data/db-1 c1-n1 10.201.0.6",
		"east/shop/web-5fcc8df587-2c86b c1-n1 10.201.0.2",
		"east/shop/web-5fcc8df587-j89hc c1-n1 10.201.0.3",
		"east/shop/web-5fcc8df587-z5kh9 c1-n2 10.201.1.3",
		"west/data/db-0 c2-n1 10.202.0.4",
		"west/data/db-1 c2-n2 10.202.1.4",
		"west/shop/web-545c5c7f49-hmzhx c2-n1 10.202.0.3",
		"west/shop/web-545c5c7f49-nvh9b c2-n2 10.202.1.2",
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	for _, from := range slices.Concat(east.Pods(), west.Pods()) {
		for _, to := range slices.Concat(east.Pods(), west.Pods()) {
			mustAnswer(t, from.Place, to, workload.HTTP, 8080)
		}
	}
	db, err := west.Pod("data", "db-1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{5353, 8080}, db.TCP); diff != "" {
		t.Errorf("TCP ports of a database (-want +got):\n%s", diff)
	}
	for _, node := range slices.Concat(east.Nodes(), west.Nodes()) {
		mustAnswer(t, node.Place, db, workload.UDP, 5353)
		mustAnswer(t, node.Place, db, workload.TCP, 5353)
	}
}

// mustAnswer asks pod once and expects it to name itself and to see the
// asker's own address, not a translated one.
func mustAnswer(t *testing.T, from *lab.Place, to *lab.Pod, protocol string, port int) {
	t.Helper()
	target := netip.AddrPortFrom(to.IPs[0], uint16(port)).String()
	results, err := from.Get(t.Context(), protocol, target, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := workload.Identity{Cluster: to.On.Cluster.Name, Node: to.On.Name, Namespace: to.Namespace, Pod: to.Name}
	if r := results[0]; r.Error != "" || r.Identity != want {
		t.Errorf("%s of %s from %s: got %+v", protocol, target, from, r)
	}
	host, _, _ := net.SplitHostPort(results[0].Remote)
	if !slices.Contains(addresses(t, from), host) {
		t.Errorf("%s of %s from %s: came from %s, not from one of its addresses", protocol, target, from, host)
	}
}

func addresses(t *testing.T, p *lab.Place) []string {
	t.Helper()
	var list []string
	err := p.Space().Do(func() error {
		found, err := net.InterfaceAddrs()
		for _, a := range found {
			list = append(list, a.(*net.IPNet).IP.String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestEdit changes a dump as a cluster would and sees the pods follow.
func TestEdit(t *testing.T) {
	l := labtest.New(t)
	west := labtest.AddCluster(t, l, "west", 2, dumps+"west.yaml")
	web, err := west.Pod("shop", "web-545c5c7f49-nvh9b")
	if err != nil {
		t.Fatal(err)
	}
	if err := west.Annotate("shop", "web", map[string]string{
		"service.cilium.io/shared": "false", "service.cilium.io/global": "",
	}); err != nil {
		t.Fatal(err)
	}
	if err := west.EndPod("shop", web.Name); err != nil {
		t.Fatal(err)
	}
	if err := west.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !web.Echo.Running() {
		t.Error("a pod that is being deleted has ended")
	}
	if err := west.DeletePod("shop", web.Name); err != nil {
		t.Fatal(err)
	}
	objects, err := west.Objects()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.Kind() == "Pod" && o.Name() == web.Name {
			t.Error("the pod is still in the manifests")
		}
		if o.Kind() == "Service" && o.Namespace() == "shop" && o.Name() == "web" {
			annotations := o["metadata"].(map[string]any)["annotations"].(map[string]any)
			if annotations["service.cilium.io/shared"] != "false" || annotations["service.cilium.io/global"] != nil {
				t.Errorf("annotations %v", slices.Collect(maps.Keys(annotations)))
			}
		}
		if o.Kind() == "EndpointSlice" && o.Namespace() == "shop" {
			for _, e := range o["endpoints"].([]any) {
				if target, _ := e.(map[string]any)["targetRef"].(map[string]any); target["name"] == web.Name {
					t.Errorf("slice %s still holds the pod", o.Name())
				}
			}
		}
	}
	if !web.Echo.Running() {
		t.Error("the pod ended before Sync")
	}
	if err := west.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if web.Echo.Running() || len(west.Pods()) != 3 {
		t.Errorf("after Sync the workload runs: %v, %d pods", web.Echo.Running(), len(west.Pods()))
	}
	if err := west.DeletePod("shop", web.Name); err == nil {
		t.Error("deleting a pod that is gone is no error")
	}
	if err := west.EndPod("shop", web.Name); err == nil {
		t.Error("ending a pod that is gone is no error")
	}
	if err := west.Annotate("shop", "nothing", nil); err == nil {
		t.Error("annotating a Service that is not there is no error")
	}
}
