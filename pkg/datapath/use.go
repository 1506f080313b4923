package datapath

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// MapUse is how full a map is.
type MapUse = pin.MapUse

// Use returns how full the maps are, in a fixed order. What waits to be swept
// is not counted. Of the maps that forget what is least recently used, the
// count may be 15 s old.
func (d *Datapath) Use() []MapUse {
	affinity, reverse := d.metrics.counts(d.maps)
	d.mu.Lock()
	defer d.mu.Unlock()
	slots := 0
	for _, e := range d.services {
		for _, g := range e.groups {
			slots += len(g.slots)
		}
	}
	capacity := int(d.config.MapCapacity)
	return []MapUse{
		{Name: bpf.SocketMapService, Entries: len(d.services), Capacity: capacity},
		{Name: bpf.SocketMapSlot, Entries: slots, Capacity: capacity},
		{Name: bpf.SocketMapBackend, Entries: slots, Capacity: capacity},
		{Name: bpf.SocketMapAffinity, Entries: affinity, Capacity: int(lruCapacity(d.config.MapCapacity))},
		{Name: bpf.SocketMapReverse, Entries: reverse, Capacity: int(lruCapacity(d.config.MapCapacity))},
	}
}

// Services returns what is in effect, in no order.
func (d *Datapath) Services() []Service {
	d.mu.Lock()
	defer d.mu.Unlock()
	services := make([]Service, 0, len(d.services))
	for f, e := range d.services {
		s := Service{
			Frontend: f, Groups: make([]Group, len(e.groups)), Session: time.Duration(e.session) * time.Second,
			Refuse: e.flags&uint16(bpf.SocketServiceFlagsSERVICE_REFUSES) != 0,
		}
		for i, g := range e.groups {
			s.Groups[i] = Group{Tier: g.tier, Weight: g.weight}
			for _, b := range g.slots {
				if b.id != 0 {
					s.Groups[i].Backends = append(s.Groups[i].Backends, b.addrPort())
				}
			}
		}
		services = append(services, s)
	}
	return services
}

// metrics is what the data plane counts itself.
type metrics struct {
	ended prometheus.Counter

	mu                sync.Mutex
	counted           time.Time
	affinity, reverse int
}

func newMetrics() *metrics {
	return &metrics{ended: prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "causeway", Subsystem: "datapath", Name: "ended_sockets_total",
		Help: "Connected UDP sockets that were ended because their backend was gone.",
	})}
}

// countInterval spaces the looks at all of the maps that the kernel fills.
const countInterval = 15 * time.Second

// counts returns how many entries the maps have that the kernel fills. What
// cannot be read counts as it did before.
func (m *metrics) counts(set *mapSet) (affinity, reverse int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.counted) >= countInterval {
		m.counted = now
		a, r := 0, 0
		errA := pin.Read(set.affinity, func(bpf.SocketAffinityKey, bpf.SocketAffinity) { a++ })
		errR := pin.Read(set.reverse, func(bpf.SocketReverseKey, bpf.SocketReverse) { r++ })
		if errA == nil && errR == nil {
			m.affinity, m.reverse = a, r
		}
	}
	return m.affinity, m.reverse
}

// collector shows how full the maps are at the time of the scrape.
type collector struct{ d *Datapath }

func entriesDesc() *prometheus.Desc {
	return prometheus.NewDesc("causeway_datapath_map_entries", "Entries in use of an eBPF map.", []string{"map"}, nil)
}

func capacityDesc() *prometheus.Desc {
	return prometheus.NewDesc("causeway_datapath_map_capacity_entries", "Entries that an eBPF map holds at most.", []string{"map"}, nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	out <- entriesDesc()
	out <- capacityDesc()
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, use := range c.d.Use() {
		out <- prometheus.MustNewConstMetric(entriesDesc(), prometheus.GaugeValue, float64(use.Entries), use.Name)
		out <- prometheus.MustNewConstMetric(capacityDesc(), prometheus.GaugeValue, float64(use.Capacity), use.Name)
	}
}
