package probe

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	paths   *prometheus.GaugeVec
	rounds  prometheus.Counter
	asked   *prometheus.CounterVec
	rtt     prometheus.Histogram
	changed prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		paths: promauto.With(r).NewGaugeVec(prometheus.GaugeOpts{
			Name: "causeway_probe_paths",
			Help: "Addresses of other clusters' nodes, or probe pods where packets are left to the network, that are asked now, by state: reachable, degraded, unreachable or pending (not known yet).",
		}, []string{"state"}),
		rounds: promauto.With(r).NewCounter(prometheus.CounterOpts{
			Name: "causeway_probe_rounds_total", Help: "How often an address was asked.",
		}),
		asked: promauto.With(r).NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_probe_received_total",
			Help: "What others asked of this node, by what became of it: answered, marked (of a pod, not answered), malformed, stranger (from no node of a peer), rate (more than is answered).",
		}, []string{"result"}),
		rtt: promauto.With(r).NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_probe_rtt_seconds", Help: "Time from a question to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8),
		}),
		changed: promauto.With(r).NewGauge(prometheus.GaugeOpts{
			Name: "causeway_probe_troubles", Help: "What is wrong on the way to other clusters; causeway diagnose has the words.",
		}),
	}
	for _, s := range []State{Pending, Reachable, Degraded, Unreachable} {
		m.paths.WithLabelValues(string(s))
	}
	for _, result := range []string{"answered", "marked", "malformed", "stranger", "rate"} {
		m.asked.WithLabelValues(result)
	}
	return m
}

func (m *metrics) answered(result string) { m.asked.WithLabelValues(result).Inc() }
