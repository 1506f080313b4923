package observe

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type agentMetrics struct {
	wanted prometheus.Gauge
	sent   prometheus.Counter
	lost   *prometheus.CounterVec
}

func newAgentMetrics(r prometheus.Registerer) *agentMetrics {
	m := &agentMetrics{
		wanted: promauto.With(r).NewGauge(prometheus.GaugeOpts{
			Name: "causeway_observe_wanted",
			Help: "1 while somebody wants to see the node's dropped packets as they happen.",
		}),
		sent: promauto.With(r).NewCounter(prometheus.CounterOpts{
			Name: "causeway_observe_sent_events_total",
			Help: "Events of dropped packets that the API server took.",
		}),
		lost: promauto.With(r).NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_observe_lost_events_total",
			Help: "Events that were wanted and not sent: more than the API server allows (rate), more than wait (queue), or the call failed (send).",
		}, []string{"reason"}),
	}
	for _, reason := range []string{lostRate, lostQueue, lostSend} {
		m.lost.WithLabelValues(reason)
	}
	return m
}

// Why an agent loses events.
const (
	lostRate  = "rate"
	lostQueue = "queue"
	lostSend  = "send"
)

type serverMetrics struct {
	agents, listeners prometheus.Gauge
	received, refused prometheus.Counter
	given             prometheus.Counter
	lost              *prometheus.CounterVec
}

func newServerMetrics(r prometheus.Registerer) *serverMetrics {
	counter := func(name, help string) prometheus.Counter {
		return promauto.With(r).NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return promauto.With(r).NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &serverMetrics{
		agents:    gauge("causeway_observe_agents", "Agents whose dropped packets can be seen."),
		listeners: gauge("causeway_observe_listeners", "Who listens to dropped packets now."),
		received:  counter("causeway_observe_received_events_total", "Events of dropped packets that agents sent."),
		refused:   counter("causeway_observe_refused_events_total", "Events that agents sent and that are none."),
		given:     counter("causeway_observe_given_events_total", "Events that listeners took; one for each of them."),
		lost: promauto.With(r).NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_observe_listener_lost_events_total",
			Help: "Events that a listener should have seen, by who lost them: the agent, that sent or had to send more than it may, or the listener, that reads too slowly.",
		}, []string{"by"}),
	}
	m.lost.WithLabelValues(lostByAgent)
	m.lost.WithLabelValues(lostByListener)
	return m
}

const (
	lostByAgent    = "agent"
	lostByListener = "listener"
)
