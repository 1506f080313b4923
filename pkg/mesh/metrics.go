package mesh

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/feed"
)

type metrics struct {
	peers, ranges, problems, failed prometheus.Gauge
	duration                        prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "causeway", Subsystem: "mesh", Name: name, Help: help})
	}
	m := &metrics{
		peers:    gauge("peers", "Clusters that packets are carried to."),
		ranges:   gauge("ranges", "Ranges of other clusters that packets are carried to."),
		problems: gauge("problems", "What a person should look at of packets between clusters; causeway status has the words."),
		failed:   gauge("failed", "1 while the newest state of packets between clusters is not in effect. An alarm when not 0."),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "causeway", Subsystem: "mesh", Name: "reconcile_seconds",
			Help:    "Time from a change of the state to the maps and the host's network.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
	}
	if r != nil {
		r.MustRegister(m.peers, m.ranges, m.problems, m.failed, m.duration)
	}
	return m
}

func (m *metrics) set(now feed.Mesh) {
	m.peers.Set(float64(now.Peers))
	m.ranges.Set(float64(now.Ranges))
	m.problems.Set(float64(len(now.Problems)))
	m.failed.Set(0)
	if now.Error != "" {
		m.failed.Set(1)
	}
}
