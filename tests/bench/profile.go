package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// profile returns what the hooks themselves take of a connection, by the
// kernel's own clock around each run of a program, of n connections. It is measured apart: the
// clock costs something too. Cases without a program have no row; a ratio is to
// the CPU time of a whole direct connection.
func profile(ctx context.Context, cases []*testCase, n int) (result []row, err error) {
	statistics, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("enable statistics of programs: %w", err)
	}
	defer func() { err = errors.Join(err, statistics.Close()) }()
	for _, c := range cases {
		programs, err := attached(c.cgroup)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		if len(programs) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		value, err := c.runTime(programs, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		result = append(result, row{Case: c.name, Metric: "run time of the hook", Value: value, Unit: "ns", Ratio: value / median(baseOf(cases, c).values)})
	}
	return result, nil
}

// runTime returns how many ns the programs run for each of n connections. It
// closes them.
func (c *testCase) runTime(programs []*ebpf.Program, n int) (float64, error) {
	var before, after float64
	add := func(sum *float64) error {
		for _, p := range programs {
			s, err := p.Stats()
			if err != nil {
				return fmt.Errorf("read statistics of a program: %w", err)
			}
			*sum += float64(s.Runtime.Nanoseconds())
		}
		return nil
	}
	defer func() {
		for _, p := range programs {
			_ = p.Close() // read only
		}
	}()
	if err := add(&before); err != nil {
		return 0, err
	}
	if _, err := c.client.measure(n); err != nil {
		return 0, err
	}
	err := add(&after)
	return (after - before) / float64(n), err
}

// attached returns the programs that a connection of IPv4 runs at a cgroup: when
// it is made, and when its socket ends.
func attached(cgroup string) ([]*ebpf.Program, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close() // read only
	var programs []*ebpf.Program
	for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCgroupInetSockRelease} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hook})
		if err != nil {
			return nil, fmt.Errorf("list programs of %s: %w", cgroup, err)
		}
		for _, p := range found.Programs {
			program, err := ebpf.NewProgramFromID(p.ID)
			if err != nil {
				return nil, fmt.Errorf("open program %d: %w", p.ID, err)
			}
			programs = append(programs, program)
		}
	}
	return programs, nil
}
