package join

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// reason is why somebody was not let in, as the metric's label has it.
type reason string

const (
	reasonSecret     reason = "secret"     // no such invitation, or not its secret
	reasonInvitation reason = "invitation" // ended, used, or for another cluster
	reasonUnfit      reason = "unfit"      // the clusters do not fit together
	reasonMalformed  reason = "malformed"  // not what the exchange asks for
	reasonBusy       reason = "busy"       // too many at once
	reasonInternal   reason = "internal"   // our own trouble
)

type metrics struct {
	joins    prometheus.Counter
	refusals *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer, b *book) *metrics {
	with := promauto.With(registerer)
	m := &metrics{
		joins: with.NewCounter(prometheus.CounterOpts{
			Name: "causeway_join_joins_total", Help: "Exchanges by which another cluster joined this one by an invitation of ours.",
		}),
		refusals: with.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_join_refusals_total", Help: "Exchanges that this cluster refused, by reason.",
		}, []string{"reason"}),
	}
	for _, why := range []reason{reasonSecret, reasonInvitation, reasonUnfit, reasonMalformed, reasonBusy, reasonInternal} {
		m.refusals.WithLabelValues(string(why))
	}
	count := func(is func(member) bool) func() float64 {
		return func() float64 {
			n := 0.0
			for _, one := range b.all() {
				if is(one) {
					n++
				}
			}
			return n
		}
	}
	with.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_join_joined_clusters", Help: "Clusters that this one reads because they joined.",
	}, count(func(m member) bool { return m.Reads != nil }))
	with.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_join_unsaved_clusters", Help: "Clusters whose record is not on disk yet, as that failed and is tried again.",
	}, b.lacking)
	with.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_join_excluded_clusters", Help: "Clusters of which certificates are refused that were valid before they were put out.",
	}, count(func(m member) bool { return !m.Out.IsZero() }))
	return m
}
