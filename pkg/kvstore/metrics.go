package kvstore

import (
	"github.com/prometheus/client_golang/prometheus"
)

// writerMetrics count what a writer does. They are registered while it runs,
// so that a writer may come after another of the same name.
type writerMetrics struct {
	written  prometheus.Counter
	deleted  prometheus.Counter
	repaired prometheus.Counter
	retries  prometheus.Counter
	pending  prometheus.GaugeFunc
	refused  prometheus.GaugeFunc
}

func newWriterMetrics(w *Writer) *writerMetrics {
	labels := prometheus.Labels{"writer": w.cfg.Name}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "causeway_kvstore_" + name, Help: help, ConstLabels: labels})
	}
	gauge := func(name, help string, length func() int) prometheus.GaugeFunc {
		opts := prometheus.GaugeOpts{Name: "causeway_kvstore_" + name, Help: help, ConstLabels: labels}
		return prometheus.NewGaugeFunc(opts, func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return float64(length())
		})
	}
	return &writerMetrics{
		written:  counter("written_keys_total", "Keys written to etcd."),
		deleted:  counter("deleted_keys_total", "Keys deleted from etcd."),
		repaired: counter("repaired_keys_total", "Keys that something else had changed in etcd and that were put right."),
		retries:  counter("write_retries_total", "Rounds of writing that went wrong and were tried again."),
		pending:  gauge("pending_keys", "Keys that wait to be written to etcd.", func() int { return len(w.dirty) }),
		refused:  gauge("refused_keys", "Keys whose value etcd refuses.", func() int { return len(w.failures) }),
	}
}

// register makes the metrics visible until the returned function is called.
func (m *writerMetrics) register(to prometheus.Registerer) (unregister func(), err error) {
	if to == nil {
		return func() {}, nil
	}
	var registered []prometheus.Collector
	unregister = func() {
		for _, c := range registered {
			to.Unregister(c)
		}
	}
	for _, c := range []prometheus.Collector{m.written, m.deleted, m.repaired, m.retries, m.pending, m.refused} {
		if err := to.Register(c); err != nil {
			unregister() // those of this writer only
			return nil, err
		}
		registered = append(registered, c)
	}
	return unregister, nil
}

func (m *writerMetrics) count(ops []op) {
	for _, o := range ops {
		if o.put {
			m.written.Inc()
		} else {
			m.deleted.Inc()
		}
	}
}
