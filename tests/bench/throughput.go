package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// throughputConfig says how much is measured.
type throughputConfig struct {
	Rounds int
	// Time is that of one measurement.
	Time time.Duration
	// MaxAddresses leaves out cases with more.
	MaxAddresses int
	Dir          string
}

func defaultThroughput() throughputConfig {
	return throughputConfig{Rounds: 40, Time: 200 * time.Millisecond, MaxAddresses: 250_000, Dir: filepath.Join("out", "bench")}
}

// carrierCase is one way by which packets get from pod to pod.
type carrierCase struct {
	name string
	// base is the case that this one is compared with; none for the first.
	base      string
	mode      string // of ours; "" when it is none
	addresses int    // in the maps of ours
	prepare   func(*carrier) error

	carrier *carrier
	values  map[string]*samples // by metric
}

// samples are what was measured of one metric, by round.
type samples struct{ rate, cost []float64 }

// The cases that others are compared with.
const (
	caseDirect = "direct"
	caseVXLAN  = "plain VXLAN"
)

// carrierMetric is one kind of traffic.
type carrierMetric struct {
	work       string // as the client knows it
	name, unit string // of the rate
	scale      float64
	cost       string // of the CPU time
	costScale  float64
}

func carrierMetrics() []carrierMetric {
	const giga = 1e9
	return []carrierMetric{
		{"stream", "one TCP stream", "Gbit/s", 8 / giga, "CPU ms a GB", giga / 1e6},
		{"streams", "four TCP streams", "Gbit/s", 8 / giga, "CPU ms a GB", giga / 1e6},
		{"request", "requests of 64 bytes", "1/s", 1, "CPU us a request", 1e-3},
		{"connect", "TCP connections", "1/s", 1, "CPU us a connection", 1e-3},
		{"datagram", "UDP packets of 64 bytes", "1/s", 1, "CPU us a packet", 1e-3},
	}
}

func carrierCases(maxAddresses int) []*carrierCase {
	all := []*carrierCase{
		{name: caseDirect, prepare: func(c *carrier) error { return errors.Join(c.knowEverybody(), c.routeDirect()) }},
		{name: "direct-again", base: caseDirect, prepare: func(c *carrier) error { return errors.Join(c.knowEverybody(), c.routeDirect()) }},
		{name: caseVXLAN, base: caseDirect, prepare: func(c *carrier) error { return errors.Join(c.knowEverybody(), c.routeVXLAN()) }},
	}
	for _, size := range []struct {
		addresses int
		name      string
	}{{1, "1 address"}, {250_000, "250,000 addresses"}} {
		all = append(all,
			&carrierCase{
				name: "causeway native, " + size.name, base: caseDirect, mode: "native", addresses: size.addresses,
				prepare: func(c *carrier) error { return errors.Join(c.knowThemselves(), c.routeDirect()) },
			},
			&carrierCase{
				name: "causeway vxlan, " + size.name, base: caseVXLAN, mode: "vxlan", addresses: size.addresses,
				prepare: (*carrier).knowThemselves,
			})
	}
	var kept []*carrierCase
	for _, c := range all {
		if c.addresses <= maxAddresses {
			c.values = map[string]*samples{}
			kept = append(kept, c)
		}
	}
	return kept
}

// throughput measures what carrying packets between two pods costs.
func throughput(ctx context.Context, config throughputConfig, out io.Writer) (err error) {
	where, err := thisMachine("throughput")
	if err != nil {
		return err
	}
	if err := mountBPFFS(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "causeway-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cases := carrierCases(config.MaxAddresses)
	defer func() {
		for _, c := range cases {
			if c.carrier != nil {
				err = errors.Join(err, c.carrier.close())
			}
		}
	}()
	for i, c := range cases {
		begin := time.Now()
		if err := c.open(ctx, filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		step(out, "%s: ready after %.1f s", c.name, time.Since(begin).Seconds())
	}
	step(out, "%d rounds of %d measurements of %s", config.Rounds, len(cases)*len(carrierMetrics()), config.Time)
	if err := carry(ctx, cases, config); err != nil {
		return err
	}
	result := &throughputResult{machine: where, Rows: throughputRows(cases)}
	if err := result.print(out); err != nil {
		return err
	}
	name, err := writeResult(config.Dir, result.Name, result)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "written to %s\n", name)
	return nil
}

// open makes the nodes and pods of a case and starts what carries and what talks.
func (c *carrierCase) open(ctx context.Context, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if c.carrier, err = newCarrier(dir); err != nil {
		return err
	}
	if err := c.prepare(c.carrier); err != nil {
		return err
	}
	for side, node := range c.carrier.nodes {
		if c.mode == "" {
			break
		}
		pins := filepath.Join(bpffs, filepath.Base(dir)+"-"+strconv.Itoa(side))
		mesh, err := startIn(ctx, node, partMesh, pins, c.mode, strconv.Itoa(side), strconv.Itoa(c.addresses))
		if err != nil {
			return err
		}
		_, err = mesh.stdout.ReadString('\n')
		_ = mesh.stdin.Close() // ends it
		if err := errors.Join(err, mesh.command.Wait()); err != nil {
			return fmt.Errorf("make a node of the mesh: %w", err)
		}
	}
	return c.carrier.open(ctx)
}

// carry runs the rounds like measure does: each case once a round, in an order
// of its own, after a round that warms up.
func carry(ctx context.Context, cases []*carrierCase, config throughputConfig) error {
	order := append([]*carrierCase(nil), cases...)
	random := rand.New(rand.NewPCG(5, 6))
	for round := range config.Rounds + 1 {
		for _, m := range carrierMetrics() {
			random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, c := range order {
				if err := ctx.Err(); err != nil {
					return err
				}
				rate, cost, err := c.carrier.measure(m, config.Time)
				for try := 0; errors.Is(err, errNothing) && try < maxTries; try++ {
					rate, cost, err = c.carrier.measure(m, config.Time)
				}
				if err != nil {
					return fmt.Errorf("%s: %s: %w", c.name, m.name, err)
				}
				if round == 0 {
					continue
				}
				if c.values[m.work] == nil {
					c.values[m.work] = &samples{}
				}
				s := c.values[m.work]
				s.rate, s.cost = append(s.rate, rate), append(s.cost, cost)
			}
		}
	}
	return nil
}

// errNothing says that a measurement has no figures: the first packet was lost,
// and sent again only after the time was over. It is repeated some times.
var errNothing = errors.New("nothing arrived")

const maxTries = 5

// measure returns the rate, and the CPU time of one unit, of client, server and
// the kernel's threads for packets.
func (c *carrier) measure(m carrierMetric, length time.Duration) (rate, cost float64, err error) {
	before, counted, softBefore, err := c.used()
	if err != nil {
		return 0, 0, err
	}
	var count, nanos, cpu int64
	if err := c.client.ask(fmt.Sprint(m.work, " ", length.Milliseconds()), &count, &nanos, &cpu); err != nil {
		return 0, 0, err
	}
	after, countedNow, softAfter, err := c.used()
	if err != nil {
		return 0, 0, err
	}
	if m.work == "datagram" {
		count = countedNow - counted // what arrived
	}
	if count == 0 {
		return 0, 0, errNothing
	}
	cpu += after - before + softAfter - softBefore
	return float64(count) / float64(nanos) * 1e9 * m.scale, float64(cpu) / float64(count) * m.costScale, nil
}

// used returns the server's CPU time and datagrams, and the CPU time of the
// kernel's threads for packets, ns.
func (c *carrier) used() (server, datagrams, soft int64, err error) {
	if err := c.server.ask("", &server, &datagrams); err != nil {
		return 0, 0, 0, err
	}
	soft, err = softTime()
	return server, datagrams, soft, err
}

// softTime sums the CPU time of all ksoftirqd, which carry on with packets where
// the sender's time is over. The first number of schedstat is the time in ns.
func softTime() (total int64, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || !strings.HasPrefix(string(comm), "ksoftirqd/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(name), "schedstat"))
		if err != nil {
			return 0, err
		}
		var nanos int64
		if _, err := fmt.Sscan(string(text), &nanos); err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", comm, err)
		}
		total += nanos
	}
	return total, nil
}
