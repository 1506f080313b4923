package host

import "github.com/prometheus/client_golang/prometheus"

type metrics struct{}

func newMetrics() *metrics { return &metrics{} }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(chan<- prometheus.Metric) {}
