package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/admin"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

func TestCertificates(t *testing.T) {
	ends := time.Unix(1700000000, 0)
	agents := []feed.AgentStatus{{Node: "n1", Connected: true}, {Node: "away"}, {Node: "old", Connected: true}}
	standing := func(node string) renewal.Standing {
		if node == "old" { // of a version that says nothing
			return renewal.Standing{}
		}
		return renewal.Standing{Ends: ends, Problem: "of " + node}
	}
	peers := []peer.Status{{Name: "west", Certificate: renewal.Standing{Ends: ends}}, {Name: "broken"}}
	want := []admin.Certificate{{Holder: "agent n1", Ends: ends, Problem: "of n1"}, {Holder: "this cluster at west", Ends: ends}}
	if diff := cmp.Diff(want, certificates(agents, standing, peers)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
