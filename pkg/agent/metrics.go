package agent

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
)

type metrics struct {
	services, frontends, backends prometheus.Gauge
	refused                       *prometheus.GaugeVec
	duration                      prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "causeway", Subsystem: "agent", Name: name, Help: help})
	}
	m := &metrics{
		services:  gauge("services", "Global services that the feed has told of."),
		frontends: gauge("frontends", "Addresses and ports that are translated."),
		backends:  gauge("backends", "Backends in effect, once for each frontend that uses them."),
		refused: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "causeway", Subsystem: "agent", Name: "refused_frontends",
			Help: "Frontends whose newest state is not in effect, by reason: full, invalid or error. An alarm when not 0.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "causeway", Subsystem: "agent", Name: "reconcile_seconds",
			Help:    "Time from a change of the state to the maps.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
	}
	if r != nil {
		r.MustRegister(m.services, m.frontends, m.backends, m.refused, m.duration)
	}
	m.set(feed.Counts{}, nil)
	return m
}

func (m *metrics) set(c feed.Counts, failures map[datapath.Frontend]error) {
	m.services.Set(float64(c.Services))
	m.frontends.Set(float64(c.Frontends))
	m.backends.Set(float64(c.Backends))
	reasons := map[string]int{"full": 0, "invalid": 0, "error": 0}
	for _, err := range failures {
		switch {
		case errors.Is(err, datapath.ErrFull):
			reasons["full"]++
		case errors.Is(err, datapath.ErrService):
			reasons["invalid"]++
		default:
			reasons["error"]++
		}
	}
	for reason, n := range reasons {
		m.refused.WithLabelValues(reason).Set(float64(n))
	}
}
