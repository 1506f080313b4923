package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
)

// enough is how many requests reach each of so many pods but once in many
// thousand tries; then the next try finds it.
func enough(pods int) int { return 8 + 10*pods }

// answers waits until requests from a pod are answered by exactly the pods that
// are named, and no request fails. Negated, none is answered. With -ports a pod
// is followed by ":" and the port that it answers at.
func answers(ctx context.Context, c *call) error {
	protocol, ports := workload.HTTP, false
	args := c.args
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-mapped":
			protocol = workload.Mapped
		case "-udp":
			protocol = workload.UDP
		case "-ports":
			ports = true
		default:
			return fmt.Errorf("unknown flag %q", args[0])
		}
		args = args[1:]
	}
	if len(args) < 2 || c.negate != (len(args) == 2) {
		return errors.New("name the pods that answer, or none after '!'")
	}
	client, err := c.pod(args[0])
	if err != nil {
		return err
	}
	want, err := c.podNames(args[2:])
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		results, err := client.Get(ctx, protocol, args[1], enough(len(want)))
		if err != nil {
			return err
		}
		return compare(want, results, ports)
	})
}

// sticky waits until all requests from a pod are answered by one and the same of
// the pods that are named, however many there are.
func sticky(ctx context.Context, c *call) error {
	client, err := c.pod(c.args[0])
	if err != nil {
		return err
	}
	pods, err := c.podNames(c.args[2:])
	if err != nil {
		return err
	}
	return eventually(ctx, func() error {
		results, err := client.Get(ctx, workload.HTTP, c.args[1], 5*enough(len(pods)))
		if err != nil {
			return err
		}
		got, failures := lab.Count(results)
		if len(failures) > 0 || len(got) != 1 {
			return fmt.Errorf("answers: %v, failures: %v; want those of one pod", got, failures)
		}
		for pod := range got {
			if !pods[pod] {
				return fmt.Errorf("%s answers", pod)
			}
		}
		return nil
	})
}

// podNames returns the full names of pods, each with the port that it may have.
func (w *world) podNames(words []string) (map[string]bool, error) {
	names := map[string]bool{}
	for _, word := range words {
		word, port, hasPort := strings.Cut(word, ":")
		cluster, namespace, name, err := w.podName(word)
		if err != nil {
			return nil, err
		}
		full := workload.Identity{Cluster: cluster.Name, Namespace: namespace, Pod: name}.String()
		if hasPort {
			full += ":" + port
		}
		names[full] = true
	}
	return names, nil
}

// compare returns an error unless the answers came from exactly the pods wanted;
// with none wanted, all requests must have failed.
func compare(want map[string]bool, results []workload.Result, ports bool) error {
	got, failures := lab.Count(results)
	if ports {
		got = countPorts(results)
	}
	if len(failures) > 0 && len(want) > 0 {
		return fmt.Errorf("requests failed: %v; answers: %v", failures, got)
	}
	var wrong []error
	for _, pod := range slices.Sorted(maps.Keys(got)) {
		if !want[pod] {
			wrong = append(wrong, fmt.Errorf("%s answers", pod))
		}
	}
	for _, pod := range slices.Sorted(maps.Keys(want)) {
		if got[pod] == 0 {
			wrong = append(wrong, fmt.Errorf("%s does not answer", pod))
		}
	}
	return errors.Join(wrong...)
}

func countPorts(results []workload.Result) map[string]int {
	got := map[string]int{}
	for _, r := range results {
		if at, err := netip.ParseAddrPort(r.Local); err == nil && r.Error == "" {
			got[r.Identity.String()+":"+strconv.Itoa(int(at.Port()))]++
		}
	}
	return got
}

// startLoad begins requests on new and on long connections, which go on until
// unharmed. It returns when they are answered.
func startLoad(ctx context.Context, c *call) error {
	name := c.args[0]
	client, err := c.pod(c.args[1])
	if err != nil {
		return err
	}
	load, err := client.StartLoad(ctx, workload.LoadConfig{
		Target: c.args[2], Protocol: workload.HTTP, Rate: 200, Long: 10,
	})
	if err != nil {
		return err
	}
	c.loads[name] = load
	_, err = load.Await(ctx, func(r workload.Report) bool { return r.New.OK > 0 && r.Long.OK > 0 })
	return err
}

func (c *call) load() (*lab.Load, error) {
	load := c.loads[c.args[0]]
	if load == nil {
		return nil, fmt.Errorf("there is no load %q", c.args[0])
	}
	return load, nil
}

// served waits until so many more requests were answered, none failed.
func served(ctx context.Context, c *call) error {
	load, err := c.load()
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(c.args[1])
	if err != nil {
		return err
	}
	before := load.Report()
	after, err := load.Await(ctx, func(r workload.Report) bool {
		return r.New.OK >= before.New.OK+count && r.Long.OK > before.Long.OK || failed(r) > 0
	})
	if err != nil {
		return err
	}
	return harm(after)
}

// unharmed ends a load: no request of it may have failed.
func unharmed(ctx context.Context, c *call) error {
	load, err := c.load()
	if err != nil {
		return err
	}
	delete(c.loads, c.args[0])
	report, err := load.Stop(ctx)
	if err != nil {
		return err
	}
	c.script.Logf("%d new connections, longest gap %.0f ms; %d exchanges on long ones, longest gap %.0f ms",
		report.New.OK, report.New.MaxGapMillis, report.Long.OK, report.Long.MaxGapMillis)
	return harm(report)
}

func failed(r workload.Report) int { return r.New.Failed + r.Long.Failed }

func harm(r workload.Report) error {
	if failed(r) > 0 {
		return fmt.Errorf("%d of %d requests failed: new connections %v, long ones %v",
			failed(r), failed(r)+r.New.OK+r.Long.OK, r.New.Errors, r.Long.Errors)
	}
	return nil
}
