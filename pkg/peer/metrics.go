package peer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

// metrics are counted by peer; forget removes a peer's series.
type metrics struct {
	synced      *prometheus.GaugeVec
	changed     *prometheus.CounterVec
	refusedKeys *prometheus.CounterVec
	waiting     *prometheus.GaugeVec
	held        *prometheus.CounterVec
	renewal     *renewal.Metrics
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
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("waiting_ranges",
			"Ranges that the peer names outside of its claims, which wait for approval.")), []string{"cluster"}),
		held: prometheus.NewCounterVec(prometheus.CounterOpts(opts("held_seconds_total",
			"Time in which nothing was read of the peer since it said too much a second.")), []string{"cluster"}),
		renewal: renewal.NewMetrics(r),
	}
	if r != nil {
		r.MustRegister(m.synced, m.changed, m.refusedKeys, m.waiting, m.held)
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

func (m *metrics) waits(peer string, ranges int) {
	m.waiting.WithLabelValues(peer).Set(float64(ranges))
}

func (m *metrics) hold(peer string, d time.Duration) {
	m.held.WithLabelValues(peer).Add(d.Seconds())
}

func (m *metrics) changes(peer string, n int) { m.changed.WithLabelValues(peer).Add(float64(n)) }

func (m *metrics) refused(peer string, why trust.Reason) {
	m.refusedKeys.WithLabelValues(peer, string(why)).Inc()
}

func (m *metrics) forget(peer string) {
	labels := prometheus.Labels{"cluster": peer}
	m.synced.DeletePartialMatch(labels)
	m.changed.DeletePartialMatch(labels)
	m.refusedKeys.DeletePartialMatch(labels)
	m.waiting.DeletePartialMatch(labels)
	m.held.DeletePartialMatch(labels)
	m.renewal.Forget(peer)
}
