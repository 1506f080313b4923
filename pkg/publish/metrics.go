package publish

import "github.com/prometheus/client_golang/prometheus"

// newMetrics registers what a person watches of a publisher; r may be nil.
func newMetrics(r prometheus.Registerer, p *Publisher) {
	if r == nil {
		return
	}
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "causeway", Subsystem: "publish", Name: "problems",
		Help: "Objects of the source that are wrong, and keys that etcd refuses.",
	}, func() float64 { return float64(len(p.Problems())) }))
}
