package peer

import "github.com/prometheus/client_golang/prometheus"

// metrics are counted by peer; forget removes a peer's series.
type metrics struct {
	synced      *prometheus.GaugeVec
	changed     *prometheus.CounterVec
	refusedKeys *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "causeway", Subsystem: "peer", Name: name, Help: help}
	}
	m := &metrics{
		synced: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("synced",
			"1 while all that the peer publishes is known and followed.")), []string{"cluster"}),
		changed: prometheus.NewCounterVec(prometheus.CounterOpts(opts("changes_total",
			"Changes of keys received from the peer.")), []string{"cluster"}),
		refusedKeys: prometheus.NewCounterVec(prometheus.CounterOpts(opts("refused_keys_total",
			"Keys of the peer that were not taken over, by reason.")), []string{"cluster", "reason"}),
	}
	if r != nil {
		r.MustRegister(m.synced, m.changed, m.refusedKeys)
	}
	return m
}

func (m *metrics) state(peer string, s State) {
	value := 0.0
	if s == Synced {
		value = 1
	}
	m.synced.WithLabelValues(peer).Set(value)
}

func (m *metrics) changes(peer string, n int) { m.changed.WithLabelValues(peer).Add(float64(n)) }

func (m *metrics) refused(peer, reason string) { m.refusedKeys.WithLabelValues(peer, reason).Inc() }

func (m *metrics) forget(peer string) {
	labels := prometheus.Labels{"cluster": peer}
	m.synced.DeletePartialMatch(labels)
	m.changed.DeletePartialMatch(labels)
	m.refusedKeys.DeletePartialMatch(labels)
}
