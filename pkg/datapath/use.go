package datapath

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/bpf"
)

// MapUse is how full a map is.
type MapUse struct {
	Name              string // service, slot or backend: a bounded set
	Entries, Capacity int
}

// Use returns how full the maps are, in a fixed order. What waits to be swept
// is not counted.
func (d *Datapath) Use() []MapUse {
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
		{bpf.SocketMapService, len(d.services), capacity},
		{bpf.SocketMapSlot, slots, capacity},
		{bpf.SocketMapBackend, slots, capacity},
	}
}

// Services returns what is in effect, in no order.
func (d *Datapath) Services() []Service {
	d.mu.Lock()
	defer d.mu.Unlock()
	services := make([]Service, 0, len(d.services))
	for f, e := range d.services {
		s := Service{Frontend: f, Groups: make([]Group, len(e.groups))}
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
