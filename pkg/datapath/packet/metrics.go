package packet

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// Count is how many packets of one direction had one reason, since the maps
// were made.
type Count struct {
	Direction      Direction
	Reason         Reason
	Packets, Bytes uint64
	// LostEvents is how many events found no room.
	LostEvents uint64
}

// Counts returns all counts, in a fixed order.
func (p *Plane) Counts() ([]Count, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var counts []Count
	for _, d := range []Direction{ToMesh, FromMesh} {
		for r := range reasons {
			c, err := p.count(d, r)
			if err != nil {
				return nil, err
			}
			counts = append(counts, c)
		}
	}
	return counts, nil
}

// count returns one of them. The caller sees to it that p is not closed meanwhile.
func (p *Plane) count(d Direction, r Reason) (Count, error) {
	var cpus []bpf.MeshCounter
	if err := p.maps.counter.Lookup(uint32(d)*uint32(reasons)+uint32(r), &cpus); err != nil {
		return Count{}, fmt.Errorf("read the counters of packets: %w", err)
	}
	c := Count{Direction: d, Reason: r}
	for _, v := range cpus {
		c.Packets += v.Packets
		c.Bytes += v.Bytes
		c.LostEvents += v.LostEvents
	}
	return c, nil
}

// Use returns how full the maps are, in a fixed order.
func (p *Plane) Use() []pin.MapUse {
	p.mu.Lock()
	defer p.mu.Unlock()
	capacity, hosts := int(p.config.MapCapacity), int(hostCapacity(p.config.MapCapacity))
	return []pin.MapUse{
		{Name: bpf.MeshMapAddressV4, Entries: p.counts.v4, Capacity: capacity},
		{Name: bpf.MeshMapAddressV6, Entries: p.counts.v6, Capacity: capacity},
		{Name: bpf.MeshMapHost, Entries: len(p.hosts.byIP), Capacity: hosts},
		{Name: bpf.MeshMapRange, Entries: len(p.ranges), Capacity: capacity},
	}
}

// collector shows the maps' fill and the counts at the time of the scrape.
type collector struct{ p *Plane }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("causeway", "packet", name), help, labels, nil)
}

// Attached returns how many of the two programs run on the device, by method.
func (p *Plane) Attached() map[Method]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	by := map[Method]int{TCX: 0, Clsact: 0}
	for _, h := range p.hooks {
		if at, _ := h.linked(); at != 0 {
			by[TCX]++
		}
		if at, _ := h.filtered(); at != 0 {
			by[Clsact]++
		}
	}
	return by
}

// guardMetrics returns what the guard counted, and 1 if the last self-tests failed.
func (p *Plane) guardMetrics() (repairs map[string]uint64, failed float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	repairs = map[string]uint64{}
	for kind, r := range p.guarded.repairs {
		repairs[kind] = r.count
	}
	if p.guarded.failed != nil {
		failed = 1
	}
	return repairs, failed
}

func repairsDesc() *prometheus.Desc {
	return desc("repairs_total", "Programs and pins of packets between clusters that others took away and that were put back.", "kind")
}

func failedDesc() *prometheus.Desc {
	return desc("self_test_failed", "1 while packets on the tunnel device do not reach the programs. An alarm when not 0.")
}

func attachedDesc() *prometheus.Desc {
	return desc("attached_programs", "Programs of packets between clusters on the tunnel device by how they are attached, 2 in all where packets are carried.", "method")
}

func (c collector) descs() (entries, capacity, packets, bytes, lost *prometheus.Desc) {
	return desc("map_entries", "Entries in use of an eBPF map of packets between clusters.", "map"),
		desc("map_capacity_entries", "Entries that an eBPF map of packets between clusters holds at most.", "map"),
		desc("packets_total", "Packets between clusters by what became of them: passed, late (passed, from a pod not known yet), or why they were dropped.", "direction", "reason"),
		desc("bytes_total", "Bytes of these packets.", "direction", "reason"),
		desc("lost_events_total", "Events of dropped packets that found the ring buffer full.")
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	entries, capacity, packets, bytes, lost := c.descs()
	for _, d := range []*prometheus.Desc{entries, capacity, packets, bytes, lost} {
		out <- d
	}
	out <- attachedDesc()
	out <- repairsDesc()
	out <- failedDesc()
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	entries, capacity, packets, bytes, lost := c.descs()
	for _, use := range c.p.Use() {
		out <- prometheus.MustNewConstMetric(entries, prometheus.GaugeValue, float64(use.Entries), use.Name)
		out <- prometheus.MustNewConstMetric(capacity, prometheus.GaugeValue, float64(use.Capacity), use.Name)
	}
	repairs, failed := c.p.guardMetrics()
	for kind, n := range repairs {
		out <- prometheus.MustNewConstMetric(repairsDesc(), prometheus.CounterValue, float64(n), kind)
	}
	out <- prometheus.MustNewConstMetric(failedDesc(), prometheus.GaugeValue, failed)
	for method, n := range c.p.Attached() {
		out <- prometheus.MustNewConstMetric(attachedDesc(), prometheus.GaugeValue, float64(n), string(method))
	}
	counts, err := c.p.Counts()
	if err != nil {
		out <- prometheus.NewInvalidMetric(packets, err)
		return
	}
	events := uint64(0)
	for _, n := range counts {
		out <- prometheus.MustNewConstMetric(packets, prometheus.CounterValue, float64(n.Packets), n.Direction.String(), n.Reason.String())
		out <- prometheus.MustNewConstMetric(bytes, prometheus.CounterValue, float64(n.Bytes), n.Direction.String(), n.Reason.String())
		events += n.LostEvents
	}
	out <- prometheus.MustNewConstMetric(lost, prometheus.CounterValue, float64(events))
}
