package scenarios

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// seen is what a test looks at in a line of `causeway observe --output json`.
type seen struct {
	Node, Direction, Reason, Protocol string
	Source, Destination               party
	TunnelNode                        string `json:"tunnel_node"`
	Cluster                           string
	Identity                          uint32
	Known                             uint32   `json:"known_identity"`
	Labels                            []string `json:"known_labels"`
}

type party struct{ Address, Cluster, Namespace, Pod string }

// TestObserve: who asks sees what a node drops, with names, as it happens and
// later; agents send nothing while nobody asks.
func TestObserve(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	f := newForger(t)
	agent := f.web.On.Agent()
	wantMetric(t, agent, "causeway_observe_wanted", 0)
	read, write := io.Pipe()
	t.Cleanup(func() { _ = read.Close() })
	follow, err := f.west.StartCauseway(t.Context(), write, "observe", "-f", "-o", "json", "--reason", "identity,cluster")
	check(t, err)
	wantMetric(t, agent, "causeway_observe_wanted", 1)

	client, web := f.client.IPs[0], f.web.IPs[0]
	f.fromNode(t, false, f.frame(netip.MustParseAddr("10.77.0.1"), web, f.identity, "not asked for"))
	f.fromNode(t, false, f.frame(client, web, f.identity+1, "spoofed"))
	want := seen{
		Node: f.web.On.Name, Direction: "from_mesh", Reason: "identity", Protocol: "UDP",
		Source:      party{client.String(), "east", shop, "client"},
		Destination: party{web.String(), "west", shop, "web"},
		TunnelNode:  f.client.On.Name, Cluster: "east", Identity: f.identity + 1, Known: f.identity,
	}
	got := readSeen(t, read)
	if len(got.Labels) == 0 {
		t.Error("nobody says what the identity stands for")
	}
	got.Labels = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	check(t, follow.Stop(t.Context())) // which wants it to end well
	wantMetric(t, agent, "causeway_observe_wanted", 0)
	wantMetric(t, agent, "causeway_observe_sent_events_total", 1)

	// What is remembered, in each cluster by those who dropped it.
	sendRaw(t, f.client.Place, udpPacket(web, web, forgedPort, []byte("as another")))
	f.remembers(t, f.west, want, "--from", "shop/client", "--to", web.String())
	f.remembers(t, f.east, seen{
		Node: f.client.On.Name, Direction: "to_mesh", Reason: "source", Protocol: "UDP",
		Source: party{web.String(), "west", shop, "web"}, Destination: party{web.String(), "west", shop, "web"},
	}, "--direction", "to_mesh", "--node", f.client.On.Name)
	out, err := f.west.Causeway(t.Context(), "observe", "-o", "json", "--from", "shop/nobody")
	if err != nil || len(out) > 0 {
		t.Errorf("of nobody: %v\n%s", err, out)
	}
	if _, err := f.west.Causeway(t.Context(), "observe", "--node", "nowhere"); err == nil {
		t.Error("a node that is not there can be observed")
	}
}

// remembers waits until a cluster's agents have a drop to tell; identities are
// looked at where they are wanted.
func (f *forger) remembers(t *testing.T, c *lab.Cluster, want seen, args ...string) {
	t.Helper()
	awaitTrue(t, func(ctx context.Context) error {
		out, err := c.Causeway(ctx, append([]string{"observe", "-o", "json"}, args...)...)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(out) {
			var got seen
			if err := json.Unmarshal(line, &got); err != nil {
				return err
			}
			if got.Labels = nil; want.Identity == 0 {
				got.Identity, got.Known = 0, 0
			}
			if cmp.Equal(want, got) {
				return nil
			}
		}
		return fmt.Errorf("%+v is not in\n%s", want, out)
	})
}

// readSeen returns the next line.
func readSeen(t *testing.T, from *io.PipeReader) seen {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = from.CloseWithError(errors.New("no event came")) })()
	var got seen
	line, err := bufio.NewReader(from).ReadBytes('\n')
	check(t, errors.Join(err, json.Unmarshal(line, &got)))
	return got
}

// wantMetric waits until a metric has a value.
func wantMetric(t *testing.T, p *lab.Process, name string, want float64) {
	t.Helper()
	awaitTrue(t, func(ctx context.Context) error {
		if got := metricOf(ctx, t, p, name); got != want {
			return fmt.Errorf("%s of %s is %g, want %g", name, p.Name(), got, want)
		}
		return nil
	})
}
