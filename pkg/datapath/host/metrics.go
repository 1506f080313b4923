package host

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/prometheus/client_golang/prometheus"
)

// Why a packet to the mesh port is refused: labels of a metric.
const (
	reasonForwarded = "forwarded"
	reasonPod       = "pod"
	reasonDevice    = "device"
)

// metrics is what the host counts. What netfilter counts is read when it is
// asked for.
type metrics struct {
	host    *Host
	repairs *prometheus.CounterVec

	mu   sync.Mutex
	past map[string]uint64 // of tables that were replaced, by reason
	told map[string]uint64 // what was seen last, by reason
	when map[string]time.Time
}

func newMetrics(h *Host) *metrics {
	m := &metrics{host: h, past: map[string]uint64{}, told: map[string]uint64{}, when: map[string]time.Time{}, repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "causeway", Subsystem: "host", Name: "repairs_total",
		Help: "Changes of others to the node's network that were put back.",
	}, []string{"kind"})}
	for _, kind := range []Kind{Device, Address, Rule, TableRoute, FilterTable, ForwardRule, DeviceConfig} {
		m.repairs.WithLabelValues(string(kind))
	}
	return m
}

func refusedDesc() *prometheus.Desc {
	return prometheus.NewDesc("causeway_host_refused_packets_total",
		"Packets to the mesh port that were refused: forwarded by this node, from a pod's address, or from a device that does not lead to their source.",
		[]string{"reason"}, nil)
}

func problemsDesc() *prometheus.Desc {
	return prometheus.NewDesc("causeway_host_problems", "What a person should look at in the node's network, repairs of the last ten minutes included.", nil, nil)
}

func mtuDesc() *prometheus.Desc {
	return prometheus.NewDesc("causeway_host_mtu_bytes", "MTU of the tunnel device, 0 for none.", nil, nil)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	m.repairs.Describe(out)
	out <- refusedDesc()
	out <- problemsDesc()
	out <- mtuDesc()
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.repairs.Collect(out)
	out <- prometheus.MustNewConstMetric(problemsDesc(), prometheus.GaugeValue, float64(len(m.host.Problems())))
	out <- prometheus.MustNewConstMetric(mtuDesc(), prometheus.GaugeValue, float64(m.host.MTU()))
	for reason, packets := range m.refused(m.host.kernel) {
		out <- prometheus.MustNewConstMetric(refusedDesc(), prometheus.CounterValue, float64(packets), reason)
	}
}

// refused returns what was refused by this table and those before it.
func (m *metrics) refused(k *kernel) map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	packets := k.refused()
	for _, reason := range []string{reasonForwarded, reasonPod, reasonDevice} {
		packets[reason] += m.past[reason]
	}
	return packets
}

// refusals returns a problem for each reason for which packets were refused in
// the last ten minutes: either somebody tries what he should not, or a network
// is not as we took it to be.
func (m *metrics) refusals(k *kernel, port uint16) []Problem {
	packets := m.refused(k)
	m.mu.Lock()
	defer m.mu.Unlock()
	var problems []Problem
	for _, reason := range []string{reasonForwarded, reasonPod, reasonDevice} {
		if packets[reason] > m.told[reason] {
			m.told[reason], m.when[reason] = packets[reason], time.Now()
		}
		if when, ok := m.when[reason]; !ok || time.Since(when) > repairsShown {
			continue
		}
		p := Problem{
			What:  fmt.Sprintf("a pod sends packets to the mesh port, which only nodes may: %d were refused", packets[reason]),
			Where: fmt.Sprintf("nftables table inet %s, UDP port %d", Mark, port),
			Do:    "find the pod, as it may try to forge packets from other clusters",
		}
		if reason == reasonDevice {
			p.What = fmt.Sprintf("tunnel packets come by a device that does not lead back to their sender: %d were refused", packets[reason])
			p.Do = "have packets to peers' nodes leave by the device that theirs come by; where it is so, find the pod that forges them"
		}
		problems = append(problems, p)
	}
	return problems
}

// keep adds up what the table counted that is about to go.
func (m *metrics) keep(k *kernel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for reason, packets := range k.refused() {
		m.past[reason] += packets
	}
}

// refused reads the counters of our table, by reason. It is told from the
// comments, so that the table of another version counts as well, whose rules may
// be in other chains. What cannot be read counts nothing.
func (k *kernel) refused() map[string]uint64 {
	packets, reasons := map[string]uint64{}, map[string]string{}
	rules := newRuleset("", &Desired{Mesh: anyMesh()})
	for _, c := range rules.chains {
		for _, rule := range c.rules {
			if rule.counts != "" {
				reasons[Mark+": "+rule.what] = rule.counts
			}
		}
	}
	for _, c := range rules.chains {
		found, err := k.filterRules(nftables.TableFamilyINet, Mark, c.name)
		if err != nil {
			continue
		}
		for _, rule := range found {
			what, _, _ := strings.Cut(rule.comment, " [")
			if reason := reasons[what]; reason != "" {
				packets[reason] += rule.packets
			}
		}
	}
	return packets
}

// anyMesh has the rules of both families made.
func anyMesh() []netip.Addr { return []netip.Addr{nextHop(false), nextHop(true)} }
