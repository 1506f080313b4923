package conformance

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

func showAddresses(ips []netip.Addr) string {
	slices.SortFunc(ips, netip.Addr.Compare)
	return fmt.Sprint(ips)
}

// expectation is what our decoders make of what we publish, in the agent's words.
type expectation struct {
	nodes, addresses, identities, services map[string]string
	slices                                 int64
}

func expect(t *testing.T, s *site) expectation {
	t.Helper()
	e := expectation{nodes: map[string]string{}, addresses: map[string]string{}, identities: map[string]string{}, services: map[string]string{}}
	l := wire.Layout{Cluster: s.name}
	for key, value := range s.published() {
		if err := e.add(l, key, value); err != nil {
			t.Error(err)
		}
	}
	return e
}

func (e *expectation) add(l wire.Layout, key string, value []byte) error {
	switch {
	case strings.HasPrefix(key, l.Prefix(wire.Nodes)):
		n, err := l.DecodeNode(key, value)
		if err != nil {
			return err
		}
		ranges := []string{"<nil>", "<nil>"}
		for _, p := range n.PodCIDRs {
			if p.Addr().Is4() {
				ranges[0] = p.String()
			} else {
				ranges[1] = p.String()
			}
		}
		e.nodes[n.Name] = strings.Join(ranges, " ")
	case strings.HasPrefix(key, l.Prefix(wire.Addresses)):
		a, err := l.DecodeAddress(key, value)
		if err != nil {
			return err
		}
		e.addresses[a.Prefix.Addr().String()] = fmt.Sprintf("%s/%s on %s is %d", a.Namespace, a.Pod, a.HostIP, a.Identity)
	case strings.HasPrefix(key, l.Prefix(wire.Identities)):
		i, err := l.DecodeIdentity(key, value)
		if err != nil {
			return err
		}
		e.identities[i.Number.String()] = string(i.Labels)
	case strings.HasPrefix(key, l.Prefix(wire.Services)):
		svc, err := l.DecodeService(key, value)
		if err != nil {
			return err
		}
		var backends []netip.Addr
		for _, b := range svc.Backends {
			backends = append(backends, b.IP)
		}
		e.services[svc.Name.String()] = showAddresses(backends)
	case strings.HasPrefix(key, l.Prefix(wire.Slices)):
		e.slices++
	}
	return nil
}

// compare returns what the agent has that it should not, or the other way round.
func (a *agent) compare(want expectation, mode cmtypes.ServiceModeV2) error {
	services := want.services
	if !mode.ShouldWatchLegacyServices() {
		services = map[string]string{}
	}
	for _, part := range []struct {
		name      string
		want, got map[string]string
	}{
		{"nodes", want.nodes, a.has(a.nodes)},
		{"addresses", want.addresses, a.has(a.addresses)},
		{"identities", want.identities, a.has(a.identities)},
		{"services", services, a.has(a.services)},
	} {
		if diff := cmp.Diff(part.want, part.got); diff != "" {
			return fmt.Errorf("%s (-ours +Cilium):\n%s", part.name, diff)
		}
	}
	return nil
}

func (a *agent) awaitEqual(t *testing.T, want expectation, mode cmtypes.ServiceModeV2) {
	t.Helper()
	eventually(t, func() error { return a.compare(want, mode) })
}

// An agent of Cilium, given our peer file, has all that we publish: by services
// or by endpoint slices, as it is set.
func TestCiliumReads(t *testing.T) {
	for _, mode := range []cmtypes.ServiceModeV2{cmtypes.ServiceV2PreferLegacy, cmtypes.ServiceV2PreferEndpointSlice} {
		t.Run(string(mode), func(t *testing.T) {
			a := newAgent(t, mode)
			for _, source := range sources {
				s := newSite(t, source.name, source.id, source.manifest)
				file := s.invite(a.dir)
				t.Logf("%s is ready after %v", source.name, a.awaitReady(t, source.name))
				want := expect(t, s)
				a.awaitEqual(t, want, mode)
				status := a.status(source.name)
				if status.NumNodes != int64(len(want.nodes)) || status.NumEndpoints != int64(len(want.addresses)) ||
					status.NumIdentities != int64(len(want.identities)) {
					t.Errorf("status %+v, want %d nodes, %d addresses, %d identities", status, len(want.nodes), len(want.addresses), len(want.identities))
				}
				if lines := a.complaints.seen(); len(lines) > 0 {
					t.Errorf("Cilium complains:\n%s", strings.Join(lines, "\n"))
				}
				// What a peer leaves behind when it is removed is nothing.
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				a.awaitEqual(t, expectation{nodes: map[string]string{}, addresses: map[string]string{}, identities: map[string]string{}, services: map[string]string{}}, mode)
				a.complaints.seen()
			}
		})
	}
}

// The agent follows: changes, our API server killed and back, and its store lost,
// which is another store at the same address.
func TestCiliumFollows(t *testing.T) {
	mode := cmtypes.ServiceV2PreferLegacy
	a := newAgent(t, mode)
	s := newSite(t, "breadth", 255, breadth)
	s.invite(a.dir)
	a.awaitReady(t, "breadth")
	a.awaitEqual(t, expect(t, s), mode)

	s.edit("breadth.yaml", "10.210.0.9", "10.210.0.19")
	s.edit("breadth.yaml", "name: bare, namespace", "name: bald, namespace")
	eventually(t, func() error {
		if got := a.has(a.services)["breadth/api"]; !strings.Contains(got, "10.210.0.19") || strings.Contains(got, "10.210.0.9 ") {
			return fmt.Errorf("backends %s", got)
		}
		if got := a.has(a.addresses)["fd00:210::6"]; !strings.HasPrefix(got, "breadth/bald") {
			return fmt.Errorf("fd00:210::6 is %q", got)
		}
		return nil
	})
	a.awaitEqual(t, expect(t, s), mode)
	if lines := a.complaints.seen(); len(lines) > 0 {
		t.Errorf("Cilium complains:\n%s", strings.Join(lines, "\n"))
	}

	before := expect(t, s)
	s.kill()
	if err := a.compare(before, mode); err != nil {
		t.Errorf("with our API server away: %v", err)
	}
	s.edit("breadth.yaml", "10.210.0.19", "10.210.0.29")
	s.start()
	eventually(t, func() error {
		if got := a.has(a.services)["breadth/api"]; !strings.Contains(got, "10.210.0.29") {
			return fmt.Errorf("backends %s after a restart", got)
		}
		return nil
	})
	a.awaitEqual(t, expect(t, s), mode)

	s.wipe()
	s.edit("breadth.yaml", "10.210.0.29", "10.210.0.39")
	eventually(t, func() error {
		if got := a.has(a.services)["breadth/api"]; !strings.Contains(got, "10.210.0.39") {
			return fmt.Errorf("backends %s after the store was lost", got)
		}
		return nil
	})
	a.awaitEqual(t, expect(t, s), mode)
	for _, line := range a.complaints.seen() {
		t.Log(line) // of a lost connection it may complain
	}
}
