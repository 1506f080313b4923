package clusterpeer

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct{ writes *prometheus.CounterVec }

func newMetrics(registerer prometheus.Registerer, count func() (accepted, refused int)) *metrics {
	with := promauto.With(registerer)
	const name, help = "causeway_clusterpeer_objects", "ClusterPeer resources, by whether they are in force as they are."
	with.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"state": "accepted"}}, func() float64 {
		accepted, _ := count()
		return float64(accepted)
	})
	with.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{"state": "refused"}}, func() float64 {
		_, refused := count()
		return float64(refused)
	})
	m := &metrics{writes: with.NewCounterVec(prometheus.CounterOpts{
		Name: "causeway_clusterpeer_status_writes_total", Help: "Writes of a ClusterPeer's status, by result.",
	}, []string{"result"})}
	m.writes.WithLabelValues("ok")
	m.writes.WithLabelValues("error")
	return m
}

func (m *metrics) wrote(err error) {
	if err != nil {
		m.writes.WithLabelValues("error").Inc()
		return
	}
	m.writes.WithLabelValues("ok").Inc()
}
