package scenarios

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestCarriedByClsact: as TestCarried, with the programs attached as on a kernel
// without tcx. The agents of before had them attached by tcx, and one of them lost
// its pins. In the end an agent is asked itself what it dropped.
func TestCarriedByClsact(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := newPeers(t, lab.Network{Kind: lab.Routed}, labtest.Dual)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	p.losesPins(t, p.west.Nodes()[0])
	for _, c := range p.clusters() {
		for _, n := range c.Nodes() {
			check(t, n.Agent().Stop(ctx))
			_, err := n.StartAgent(ctx, "--attach-method", "clsact")
			check(t, err)
		}
		check(t, c.AwaitReady(ctx))
	}
	p.awaitReady(t)
	for _, c := range p.clusters() {
		for _, n := range c.Nodes() {
			awaitTrue(t, func(context.Context) error { return n.Space().Do(hasFilters) })
		}
	}
	p.checkService(t)
	p.checkPods(t)
	if leaked := p.leaks(t); leaked > 0 {
		t.Errorf("%d packets with addresses of pods between the clusters, outside of the tunnels", leaked)
	}
	p.asksAgent(t)
}

// asksAgent sends a packet to an address that nobody has, and asks the agent itself what
// became of it, while its API server is away.
func (p *peers) asksAgent(t *testing.T) {
	t.Helper()
	client := sitePod(t, p.west, "client")
	check(t, p.west.APIServer().Kill())
	socket := filepath.Join(client.On.StateDir(), "observe.sock")
	awaitTrue(t, func(ctx context.Context) error {
		conn, err := client.Dial(ctx, "udp", "10.1.2.99:9")
		if err != nil {
			return err
		}
		if _, err := conn.Write([]byte("nobody")); err != nil {
			return err
		}
		out, err := p.west.Causeway(ctx, "observe", "--agent-socket", socket, "--reason", "destination")
		if err == nil && !strings.Contains(string(out), "west/shop/client 10.2.1.10:") {
			err = fmt.Errorf("the agent does not tell of it: %s", out)
		}
		return errors.Join(err, conn.Close())
	})
}

// losesPins removes what an agent pinned for its programs: it is put back, and told.
func (p *peers) losesPins(t *testing.T, n *lab.Node) {
	t.Helper()
	pin := filepath.Join(n.BPFFS(), "packet", "from_mesh")
	_, err := os.Stat(pin)
	check(t, err)
	gone := filepath.Join(n.BPFFS(), "gone") // all at once: the agent makes anew what is missing
	check(t, os.Rename(filepath.Dir(pin), gone))
	check(t, os.RemoveAll(gone))
	awaitTrue(t, func(ctx context.Context) error {
		if _, err := os.Stat(pin); err != nil {
			return err
		}
		out, err := n.Cluster.Causeway(ctx, "status")
		if err == nil && !strings.Contains(string(out), "somebody else removed a pin of ours") {
			err = fmt.Errorf("status does not tell of it: %s", out)
		}
		return err
	})
}

// hasFilters returns an error unless a program is attached to each end of the
// tunnel device as a filter.
func hasFilters() error {
	device, err := netlink.LinkByName(meshDevice)
	if err != nil {
		return err
	}
	for end, parent := range map[string]uint32{"ingress": netlink.HANDLE_MIN_INGRESS, "egress": netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(device, parent)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(filters, func(f netlink.Filter) bool {
			program, ok := f.(*netlink.BpfFilter)
			return ok && program.Id != 0
		}) {
			return fmt.Errorf("no program in the filters at %s of %s", end, meshDevice)
		}
	}
	return nil
}
