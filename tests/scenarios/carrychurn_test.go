package scenarios

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// churnFlag is for how long pods come and go: 1,000 in a minute.
var churnFlag = flag.Duration("churn", 5*time.Second, "how long pods come and go in TestCarriedChurn")

// How often a pod comes and another one goes, how many there are at a time, how many
// addresses they share, and how many sets of labels: so an address changes its
// identity with each pod that gets it.
const (
	churnEvery     = time.Minute / 1000
	churnPods      = 40
	churnAddresses = 60
	churnLabels    = 7
)

// TestCarriedChurn: while 1,000 pods a minute come and go, and take each other's
// addresses, a new pod reaches the other cluster and is reached, by its own address;
// no connection of others fails; and nothing is left of those that went.
func TestCarriedChurn(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := newPeers(t, lab.Network{Kind: lab.Routed}, labtest.IPv4)
	client, web := sitePod(t, p.east, "client"), sitePod(t, p.west, "web")
	loads := p.startLoads(t, client, web, 50)
	entries := func() (sum float64) {
		for _, name := range []string{"address_v4", "address_v6"} {
			sum += metricOf(t.Context(), t, client.On.Agent(), regexp.QuoteMeta(`causeway_packet_map_entries{map="`+name+`"}`))
		}
		return sum
	}
	before := entries()

	c := churn{cluster: p.west, node: web.On}
	ctx, cancel := context.WithTimeout(t.Context(), *churnFlag)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()
	visitors := 0
	for ; visitors == 0 || ctx.Err() == nil; visitors++ {
		p.visit(t, web.On, visitors)
	}
	check(t, <-done)
	c.known(t, p.east)
	check(t, c.end())
	awaitTrue(t, func(context.Context) error {
		if now := entries(); now != before {
			return fmt.Errorf("%s knows %.0f addresses, and knew %.0f before", client.On, now, before)
		}
		return nil
	})
	loads.on(t, "nobody comes any more")
	loads.stop(t)
	t.Logf("%d pods came and went in %s, %d of which had a network", c.came+visitors, *churnFlag, visitors)
}

// churn is pods that come and go by what the manifests say of them.
type churn struct {
	cluster *lab.Cluster
	node    *lab.Node
	came    int
}

// run lets pods come and go until ctx ends. On a machine without time what was
// missed is not caught up.
func (c *churn) run(ctx context.Context) error {
	ticker := time.NewTicker(churnEvery)
	defer ticker.Stop()
	for {
		if err := c.cluster.WriteManifest(churnFile(c.came), c.manifest(c.came)); err != nil {
			return err
		}
		if c.came++; c.came > churnPods {
			if err := c.cluster.RemoveManifest(churnFile(c.came - churnPods - 1)); err != nil {
				return err
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// end makes all go that are left.
func (c *churn) end() error {
	for _, n := range c.alive() {
		if err := c.cluster.RemoveManifest(churnFile(n)); err != nil {
			return err
		}
	}
	return nil
}

func (c *churn) alive() (numbers []int) {
	for n := max(0, c.came-churnPods); n < c.came; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

func churnFile(n int) string { return fmt.Sprintf("churn-%d.yaml", n) }

func (c *churn) manifest(n int) []byte {
	return podManifest(fmt.Sprint("churn-", n), fmt.Sprint("churn-", n%churnLabels), c.node, addresses(c.node, 100+n%churnAddresses))
}

// podManifest is a pod of both families that is not ready.
func podManifest(name, label string, node *lab.Node, ips []netip.Addr) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: %s}}
spec: {nodeName: %s, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: %q, podIPs: [{ip: %[4]q}, {ip: %[5]q}]}
`, name, label, node.Name, ips[0], ips[1])
}

// addresses are those of a node's ranges that end with a number.
func addresses(node *lab.Node, last int) (ips []netip.Addr) {
	for _, r := range node.PodCIDRs {
		bytes := r.Addr().AsSlice()
		bytes[len(bytes)-1] = byte(last)
		ip, _ := netip.AddrFromSlice(bytes)
		ips = append(ips, ip)
	}
	return ips
}

// visit lets a pod come that has a network, and wants it to be reached and to reach
// others; then it goes. Each second one has the same addresses.
func (p *peers) visit(t *testing.T, node *lab.Node, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	spec := lab.PodSpec{Namespace: shop, Name: fmt.Sprint("visitor-", n), Node: node.Name, IPs: addresses(node, 200+n%2), TCP: []int{webPort}}
	check(t, node.Cluster.WriteManifest("visitor.yaml", podManifest(spec.Name, fmt.Sprint("visitor-", n%3), node, spec.IPs)))
	pod, err := node.AddPod(ctx, spec)
	check(t, err)
	p.reached(t, "it has just come", pod)
	check(t, pod.Remove(ctx), node.Cluster.RemoveManifest("visitor.yaml"))
}

// known waits until a cluster knows exactly those that are there.
func (c *churn) known(t *testing.T, cluster *lab.Cluster) {
	t.Helper()
	var want []string
	for _, n := range c.alive() {
		for range c.node.PodCIDRs {
			want = append(want, fmt.Sprintf("churn-%d app=churn-%d", n, n%churnLabels))
		}
	}
	slices.Sort(want)
	row := regexp.MustCompile(`shop/(churn-\d+) +\d+ +(app=churn-\d+)`)
	awaitTrue(t, func(ctx context.Context) error {
		out, err := cluster.Causeway(ctx, "status", "--addresses", "--node", c.node.Name)
		if err != nil {
			return err
		}
		var got []string
		for _, found := range row.FindAllStringSubmatch(string(out), -1) {
			got = append(got, found[1]+" "+found[2])
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("known: %s; want %s", strings.Join(got, ", "), strings.Join(want, ", "))
		}
		return nil
	})
}
