package state

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	writes *prometheus.CounterVec
	size   prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer, k *Keeper) *metrics {
	factory := promauto.With(registerer)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_state_unwritten_seconds",
		Help: "For how long something has waited to be kept in the Kubernetes API, 0 when all is.",
	}, func() float64 { return k.waiting().Seconds() })
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_state_last_write_timestamp_seconds",
		Help: "When the state was written into the Kubernetes API last, in seconds since 1970; 0 before the first time.",
	}, func() float64 {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.written.IsZero() {
			return 0
		}
		return float64(k.written.Unix())
	})
	return &metrics{
		writes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_state_writes_total", Help: "Attempts to write the state into the Kubernetes API, by how they ended.",
		}, []string{"result"}),
		size: factory.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_state_size_bytes", Help: "Size of the state that was written last, packed.",
		}),
	}
}

func (m *metrics) count(err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.writes.WithLabelValues(result).Inc()
}
