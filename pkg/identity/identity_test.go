package identity_test

import (
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

func TestReserved(t *testing.T) {
	for n, want := range map[identity.Number]bool{
		identity.None: false, identity.Host: true, identity.WorldIPv6: true, 255: true,
		identity.MinLocal: false, 65836: false, 1 << 24: false,
	} {
		if got := n.Reserved(); got != want {
			t.Errorf("%s reserved: %t, want %t", n, got, want)
		}
	}
}

// TestRange: every number of a range belongs to its cluster, none is reserved,
// and the ranges of two clusters never meet.
func TestRange(t *testing.T) {
	for _, size := range []cluster.Size{cluster.Size255, cluster.Size511} {
		last := identity.Number(0)
		for id := cluster.ID(1); id <= cluster.ID(size); id++ {
			from, to := identity.Range(id, size)
			if from <= last || to < from {
				t.Fatalf("size %d, cluster %d: %s to %s after %s", size, id, from, to, last)
			}
			if first, end := identity.Block(id, size); first != from-identity.MinLocal || end != to {
				t.Errorf("size %d, cluster %d: %s to %s are the cluster's, %s to %s are allocated", size, id, first, end, from, to)
			}
			if from.Cluster(size) != id || to.Cluster(size) != id {
				t.Errorf("size %d, cluster %d: %s to %s belong to %d and %d", size, id, from, to, from.Cluster(size), to.Cluster(size))
			}
			if from.Reserved() || (from-identity.MinLocal).Cluster(size) != id || (to+1).Cluster(size) == id {
				t.Errorf("size %d, cluster %d: %s to %s is not all that may be allocated", size, id, from, to)
			}
			last = to
		}
		if last >= 1<<24 {
			t.Errorf("size %d: %s does not fit 24 bits", size, last)
		}
	}
	if from, to := identity.Range(1, cluster.Size255); from != 65792 || to != 131071 {
		t.Errorf("cluster 1 of 255: %s to %s", from, to)
	}
	if from, to := identity.Range(511, cluster.Size511); from != 16744704 || to != 16777215 {
		t.Errorf("cluster 511 of 511: %s to %s", from, to)
	}
}

func TestNumberOfNoCluster(t *testing.T) {
	if got := identity.RemoteNode.Cluster(cluster.Size255); got != 0 {
		t.Errorf("remote-node belongs to cluster %d", got)
	}
	if got := identity.Number(65836).String(); got != "65836" {
		t.Errorf("got %q", got)
	}
}

func TestReservedLabels(t *testing.T) {
	for n, want := range map[identity.Number]identity.Labels{
		identity.None: "", identity.Host: "reserved:host=;", identity.WorldIPv6: "reserved:world-ipv6=;", 11: "", 65836: "",
	} {
		if got := n.ReservedLabels(); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
