package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// connectConfig says how much is measured.
type connectConfig struct {
	Rounds      int
	Connections int
	MaxServices int
	Dir         string
}

func defaultConnect() connectConfig {
	return connectConfig{Rounds: 60, Connections: 1000, MaxServices: 100_000, Dir: filepath.Join("out", "bench")}
}

// bench is what a run of the benchmark holds, and gives back at its end.
type bench struct {
	ctx     context.Context
	out     io.Writer
	cgroups *cgroups
	plain   *namespace // of all cases without rules
	parts   []*part
	undo    []func() error
}

func (b *bench) close() error {
	var errs []error
	for _, p := range b.parts { // all at once: each takes its time to end
		_ = p.stdin.Close() // it may have ended already
	}
	for i := len(b.undo) - 1; i >= 0; i-- {
		errs = append(errs, b.undo[i]())
	}
	return errors.Join(errs...)
}

// connect measures what a TCP connection to a service costs the thread that
// makes it.
func connect(ctx context.Context, config connectConfig, out io.Writer) (err error) {
	where, err := thisMachine("connect")
	if err != nil {
		return err
	}
	result := &result{machine: where}
	cases, missing := connectCases(config.MaxServices)
	for _, program := range missing {
		step(out, "%s is not installed: its rows are left out", program)
	}
	b := &bench{ctx: ctx, out: out}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(cases); err != nil {
		return err
	}
	step(out, "%d rounds of %d connections in each of %d cases", config.Rounds, config.Connections, len(cases))
	if err := measure(ctx, cases, config); err != nil {
		return err
	}
	result.Rows = rows(cases)
	hooks, err := profile(ctx, cases, 20*config.Connections)
	if err != nil {
		return err
	}
	result.Rows = append(result.Rows, hooks...)
	if err := result.print(out); err != nil {
		return err
	}
	conclude(out, result.Rows, config.Connections)
	name, err := writeResult(config.Dir, result.Name, result)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "written to %s\n", name)
	return nil
}

// open sets up all cases and starts their clients.
func (b *bench) open(cases []*testCase) (err error) {
	if b.cgroups, err = newCgroups(); err != nil {
		return err
	}
	b.undo = append(b.undo, b.cgroups.remove)
	if err := mountBPFFS(); err != nil {
		return err
	}
	if b.plain, err = b.namespace(false); err != nil {
		return err
	}
	for _, c := range cases {
		begin := time.Now()
		if err := b.openCase(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		step(b.out, "%s: ready after %.1f s", c.name, time.Since(begin).Seconds())
	}
	return nil
}

func (b *bench) openCase(c *testCase) error {
	n := b.plain
	if c.routed {
		var err error
		if n, err = b.namespace(true); err != nil {
			return err
		}
	}
	dir, err := b.cgroups.make(c.name)
	if err != nil {
		return err
	}
	c.cgroup = dir
	if c.prepare != nil {
		if err := c.prepare(b, n, dir, *c); err != nil {
			return err
		}
	}
	cgroup, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer cgroup.Close() // needed for the start only
	first, count := c.targets()
	c.client, err = startPart(b.ctx, n.start, cgroup, partClient, c.protocol.String(), first.String(), strconv.Itoa(count))
	if err != nil {
		return err
	}
	b.keep(c.client)
	return nil
}

// keep has a process of the benchmark waited for at its end.
func (b *bench) keep(p *part) {
	b.parts = append(b.parts, p)
	b.undo = append(b.undo, p.command.Wait)
}

// targets returns the addresses that the case's client dials.
func (c *testCase) targets() (first netip.AddrPort, count int) {
	switch {
	case c.services == 0:
		return backendAddress(0), c.backends
	case c.dialled > 0:
		return serviceAddress(0), c.dialled
	case c.backends > 2:
		return serviceAddress(0), min(c.services, manyBackends)
	}
	return serviceAddress(0), c.services
}

// namespace makes a namespace with a server in it.
func (b *bench) namespace(routed bool) (*namespace, error) {
	n, err := newNamespace(routed)
	if err != nil {
		return nil, err
	}
	b.undo = append(b.undo, n.close)
	server, err := startPart(b.ctx, n.start, nil, partServer)
	if err != nil {
		return nil, err
	}
	b.keep(server)
	if _, err := server.stdout.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the server ended: %w", err)
	}
	return n, nil
}

func (b *bench) prepareEmpty(_ *namespace, cgroup string, _ testCase) error {
	l, err := attachEmpty(cgroup)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, l.Close)
	return nil
}

func (b *bench) prepareOurs(_ *namespace, cgroup string, c testCase) error {
	d, err := program(filepath.Join(bpffs, filepath.Base(cgroup)), cgroup, c)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, func() error { return errors.Join(d.Remove(), d.Close()) })
	return nil
}

func (b *bench) prepareRules(n *namespace, program, kind string, c testCase) error {
	if kind == "nftables" {
		for _, batch := range nftablesRules(c.services) {
			if err := n.run(b.ctx, batch, program, "-f", "-"); err != nil {
				return err
			}
		}
		return nil
	}
	return n.run(b.ctx, iptablesRules(c.services), program)
}

// measure runs the rounds: each case once a round, in an order of its own, so
// that what the machine does besides falls on all alike. A first round warms
// up and is not counted.
func measure(ctx context.Context, cases []*testCase, config connectConfig) error {
	order := append([]*testCase(nil), cases...)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range config.Rounds + 1 {
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, c := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			value, err := c.client.measure(config.Connections)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				c.values = append(c.values, value)
			}
		}
	}
	return nil
}

// rows returns the figures of the cases. Ratios, to the direct case, and
// differences, to the empty program, are taken within each round, then their median.
func rows(cases []*testCase) []row {
	random := rand.New(rand.NewPCG(3, 4))
	var rows []row
	for _, c := range cases {
		base := baseOf(cases, c)
		ratio := bootstrap(quotients(c.values, base.values), random)
		rows = append(rows, row{
			Case: c.name, Metric: wholeTime, Value: median(c.values), Unit: "ns",
			Ratio: ratio.Value, RatioLow: ratio.Low, RatioHigh: ratio.High,
		})
		if !c.isOurs() {
			continue
		}
		over := differences(c.values, emptyOf(cases, c).values)
		ratio = bootstrap(quotients(over, base.values), random)
		rows = append(rows, row{
			Case: c.name, Metric: overEmpty, Value: median(over), Unit: "ns",
			Ratio: ratio.Value, RatioLow: ratio.Low, RatioHigh: ratio.High,
		})
	}
	return rows
}

// wholeTime is the metric of a whole connection.
const wholeTime = "CPU time of a connection"

// overEmpty is the metric of what the hooks cost by themselves.
const overEmpty = "over an empty program"
