package feed

import "github.com/prometheus/client_golang/prometheus"

type serverMetrics struct {
	subscribers prometheus.Gauge
	resources   *prometheus.GaugeVec
	snapshots   prometheus.Counter
	sentBytes   prometheus.Counter
	refused     *prometheus.CounterVec
}

func newServerMetrics(r prometheus.Registerer) *serverMetrics {
	m := &serverMetrics{
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_feed_subscribers",
			Help: "Agents that are subscribed now.",
		}),
		resources: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "causeway_feed_resources",
			Help: "Resources in the state that agents are given.",
		}, []string{"kind"}),
		snapshots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_feed_snapshots_total",
			Help: "Whole states given to agents.",
		}),
		sentBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_feed_sent_bytes_total",
			Help: "Bytes of resources sent to agents.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_feed_refused_total",
			Help: "Streams that were refused.",
		}, []string{"reason"}),
	}
	r.MustRegister(m.subscribers, m.resources, m.snapshots, m.sentBytes, m.refused)
	return m
}

func (m *serverMetrics) count(t *table) {
	for kind, n := range t.kinds {
		m.resources.WithLabelValues(kind).Set(float64(n))
	}
}

type clientMetrics struct {
	connected   prometheus.Gauge
	disconnects prometheus.Counter
	batches     *prometheus.CounterVec
}

func newClientMetrics(r prometheus.Registerer) *clientMetrics {
	m := &clientMetrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_feed_connected",
			Help: "1 while the agent has the state of the API server and is told of changes.",
		}),
		disconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_feed_disconnects_total",
			Help: "Attempts to subscribe that failed and streams that ended.",
		}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_feed_batches_total",
			Help: "Changes received.",
		}, []string{"kind"}),
	}
	r.MustRegister(m.connected, m.disconnects, m.batches)
	return m
}
