package probe

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// weighTime is how often it is looked at what nodes found.
const weighTime = time.Second

// ChooserConfig is what NewChooser needs.
type ChooserConfig struct {
	// Auto reports whether it is to be found out how packets go to a cluster.
	Auto func(cluster string) bool
	// Reports returns the newest report of each node.
	Reports func() map[string]*Report
	// Changed is called when Way says something else of a cluster than before.
	Changed    func(cluster string)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Chooser finds out whether packets to a peer are carried by tunnels or left to the
// network. It begins with tunnels. Its methods are safe for concurrent use.
type Chooser struct {
	config   ChooserConfig
	switches *prometheus.CounterVec

	mu      sync.Mutex
	choices map[string]*choice // of the peers that any node ever spoke of
}

// NewChooser returns a Chooser that has not looked yet. It starts nothing.
func NewChooser(c ChooserConfig) *Chooser {
	out := &Chooser{config: c, choices: map[string]*choice{}}
	out.switches = promauto.With(c.Registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "causeway_probe_mode_switches_total",
		Help: "How often packets to a peer of route mode auto went over to the other way, by the mode that they have then.",
	}, []string{"mode"})
	for _, m := range []route.Mode{route.VXLAN, route.Native} {
		out.switches.WithLabelValues(string(m))
	}
	promauto.With(c.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_probe_native_peers", Help: "Peers of route mode auto to which packets are left to the network.",
	}, out.natives)
	return out
}

// Way returns how packets go to a peer for which that is found out.
func (c *Chooser) Way(cluster string) (route.Mode, route.Search) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if choice := c.choices[cluster]; choice != nil {
		return choice.mode, choice.search
	}
	return route.VXLAN, route.Unfit
}

// Reason says why they go that way; "" where that was set by hand.
func (c *Chooser) Reason(cluster string) string {
	if !c.config.Auto(cluster) {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	choice := c.choices[cluster]
	if choice == nil {
		choice = newChoice()
	}
	return "auto: " + string(choice.mode) + ", " + choice.reason
}

// Run looks at what nodes find until ctx ends. It returns nil.
func (c *Chooser) Run(ctx context.Context) error {
	tick := time.NewTicker(weighTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, cluster := range c.weigh(time.Now(), c.config.Reports()) {
				c.config.Changed(cluster)
			}
		}
	}
}

// weigh looks at all reports, and returns the clusters of which Way says something
// else than before.
func (c *Chooser) weigh(now time.Time, reports map[string]*Report) (changed []string) {
	found := map[string]*evidence{}
	for node, r := range reports {
		if now.Sub(r.Time) >= Stale {
			continue
		}
		for i := range r.Summaries {
			s := &r.Summaries[i]
			if s.Mode != route.Native || !c.config.Auto(s.Cluster) {
				continue
			}
			if found[s.Cluster] == nil {
				found[s.Cluster] = &evidence{}
			}
			found[s.Cluster].add(node, s)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for cluster := range found {
		if c.choices[cluster] == nil {
			c.choices[cluster] = newChoice()
		}
	}
	for cluster, choice := range c.choices {
		mode, search := choice.mode, choice.search
		e := found[cluster]
		if e == nil {
			e = &evidence{}
		}
		choice.weigh(cluster, now, *e)
		if choice.mode != mode {
			c.switches.WithLabelValues(string(choice.mode)).Inc()
			c.config.Logger.Info("packets to a peer go another way", "cluster", cluster, "mode", choice.mode, "reason", choice.reason)
		}
		if choice.mode != mode || choice.search != search {
			changed = append(changed, cluster)
		}
	}
	return changed
}

func (c *Chooser) natives() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, choice := range c.choices {
		if choice.mode == route.Native {
			n++
		}
	}
	return float64(n)
}
