package source

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics is what a source tells Prometheus.
type metrics struct {
	problems prometheus.Gauge
	objects  *prometheus.GaugeVec
	// Of the Kubernetes API alone:
	synced             *prometheus.GaugeVec
	listings, failures *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	factory := promauto.With(r)
	m := &metrics{
		problems: factory.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_source_problems",
			Help: "Problems of the source that a person has to put right.",
		}),
		objects: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "causeway_source_objects",
			Help: "Objects in the source, those derived from others not counted.",
		}, []string{"kind"}),
	}
	m.count(nil)
	return m
}

func (m *metrics) count(counts map[Kind]int) {
	for _, kind := range Kinds() {
		m.objects.WithLabelValues(labelOf(kind)).Set(float64(counts[kind]))
	}
}

// follow adds what there is to tell of an API server.
func (m *metrics) follow(r prometheus.Registerer) {
	factory := promauto.With(r)
	m.synced = factory.NewGaugeVec(prometheus.GaugeOpts{
		Name: "causeway_source_synced",
		Help: "1 while objects of the kind have been read and are followed, 0 while the Kubernetes API does not answer or refuses.",
	}, []string{"kind"})
	m.listings = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "causeway_source_listings_total",
		Help: "Complete listings of the Kubernetes API that were taken up.",
	}, []string{"kind"})
	m.failures = factory.NewCounterVec(prometheus.CounterOpts{
		Name: "causeway_source_failures_total",
		Help: "Requests to the Kubernetes API that failed and were tried again.",
	}, []string{"kind"})
	for _, kind := range Kinds() {
		m.synced.WithLabelValues(labelOf(kind))
		m.listings.WithLabelValues(labelOf(kind))
		m.failures.WithLabelValues(labelOf(kind))
	}
}

func labelOf(kind Kind) string { return strings.ToLower(string(kind)) }

func asFloat(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
