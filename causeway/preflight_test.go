//go:build !nokubernetes

package main

import (
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/causeway/install"
)

func TestWriteReports(t *testing.T) {
	fine := install.Finding{Check: "kernel", Level: "ok", What: "it is new"}
	small := install.Finding{Check: "mtu", Level: "limit", What: "it is small", Do: "raise it"}
	var out strings.Builder
	err := writeReports(&out, []install.NodeReport{
		{Cluster: "east", Node: "e1", Findings: []install.Finding{fine}}, {Cluster: "west", Node: "w1", Findings: []install.Finding{fine, small}},
	})
	want := `CLUSTER   NODE   CHECK   RESULT   FOUND
west      w1     mtu     limit    it is small
                                  -> raise it
2 nodes: 2 findings are as they should be, 1 are not.
`
	if err != nil || out.String() != want {
		t.Errorf("%v:\n%s", err, out.String())
	}
	out.Reset()
	if err := writeReports(&out, []install.NodeReport{{Cluster: "east", Node: "e1", Findings: []install.Finding{fine}}}); err != nil || strings.Contains(out.String(), "CLUSTER") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}
