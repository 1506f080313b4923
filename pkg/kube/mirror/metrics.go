package mirror

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics is what a Mirror tells Prometheus.
type metrics struct {
	services, endpoints, objects, refused, unusable prometheus.Gauge
	requests                                        *prometheus.CounterVec
}

// The verbs and results of requests.
const (
	verbApply  = "apply"
	verbDelete = "delete"

	resultDone    = "done"
	resultRefused = "refused" // the object, by admission
	resultFailed  = "failed"
)

func newMetrics(r prometheus.Registerer) *metrics {
	factory := promauto.With(r)
	gauge := func(name, help string) prometheus.Gauge {
		return factory.NewGauge(prometheus.GaugeOpts{Name: "causeway_mirror_" + name, Help: help})
	}
	m := &metrics{
		services:  gauge("services", "Services whose remote backends are to stand in the Kubernetes API."),
		endpoints: gauge("endpoints", "Remote backends that are to stand there."),
		objects:   gauge("objects", "EndpointSlices of ours that stand there."),
		refused:   gauge("refused_services", "Services of which the Kubernetes API refuses an EndpointSlice."),
		unusable:  gauge("unusable_endpoints", "Remote backends that are left out, as Kubernetes takes no such address in an EndpointSlice."),
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_mirror_requests_total", Help: "Writes of EndpointSlices to the Kubernetes API, by verb and result.",
		}, []string{"verb", "result"}),
	}
	for _, verb := range []string{verbApply, verbDelete} {
		for _, result := range []string{resultDone, resultRefused, resultFailed} {
			m.requests.WithLabelValues(verb, result)
		}
	}
	return m
}
