package feed

import "github.com/prometheus/client_golang/prometheus"

type serverMetrics struct {
	subscribers prometheus.Gauge
	resources   *prometheus.GaugeVec
	snapshots   prometheus.Counter
	resumed     *prometheus.CounterVec
	waiting     prometheus.Gauge
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
			Help: "Whole states given to agents that had none.",
		}),
		resumed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_feed_resumed_total",
			Help: "Agents that went on from the state they had, by how: revision (the same server), equal (another server, nothing differs) or buckets (only what differs was sent).",
		}, []string{"by"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_feed_waiting",
			Help: "Agents that wait for their turn to be sent much.",
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
	r.MustRegister(m.subscribers, m.resources, m.snapshots, m.resumed, m.waiting, m.sentBytes, m.refused)
	return m
}

func (m *serverMetrics) count(t *table) {
	for _, kind := range allKinds().list() {
		m.resources.WithLabelValues(kind.String()).Set(float64(t.shelves[kind].count))
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

type stateMetrics struct {
	resources *prometheus.GaugeVec
	fileBytes prometheus.Gauge
	failures  prometheus.Counter
}

// newStateMetrics registers nothing without a registerer.
func newStateMetrics(r prometheus.Registerer) *stateMetrics {
	m := &stateMetrics{
		resources: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "causeway_feed_kept_resources",
			Help: "Resources that the agent was told and keeps, addresses with whose they are among them.",
		}, []string{"kind"}),
		fileBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_feed_state_file_bytes",
			Help: "Size of the last state on disk when it was last written anew.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_feed_state_file_failures_total",
			Help: "Times that the state could not be written to disk.",
		}),
	}
	if r != nil {
		r.MustRegister(m.resources, m.fileBytes, m.failures)
	}
	return m
}
