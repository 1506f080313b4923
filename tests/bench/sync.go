package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// rowTimeout bounds one row; none takes half of it.
const rowTimeout = 30 * time.Minute

// syncConfig says what is measured.
type syncConfig struct {
	Rows []string // all when empty
	Dir  string
	// Profiles, if not "", is where CPU and heap profiles of the API server and
	// the agent go.
	Profiles string
}

// syncRow is one measurement.
type syncRow struct {
	name, about string
	run         func(context.Context, *syncBench) error
}

// syncRows returns all rows, in the order in which they are measured.
func syncRows() []syncRow {
	return []syncRow{
		{"peer", "a new peer of 57,000 keys: from its file to complete maps, and to a complete cache; then idle", rowPeer},
		{"burst", "20,000 services change at once", rowBurst},
		{"trust", "the same peer, burst and changes with each key judged and without, in turns", rowTrust},
		{"hostile", "changes of one peer while another does what it may not, on a core of its own", rowHostile},
		{"churn", "325 changes a second of all kinds, for a minute: on one disk, and without one", rowChurn},
		{"backends", "a service of 10,000 backends, one of which changes", rowBackends},
		{"clusters", "250 clusters behind a hub: 25,000 nodes, 250,000 addresses, 25,000 identities, 5,000 services", rowClusters},
		{"services", "100,000 services with 1,000,000 backends", rowServices},
		{"agent", "an agent starts with 100,000 services", rowAgent},
		{"identities", "20,000 sets of labels get their numbers", rowIdentities},
	}
}

// parseSync reads the flags of the benchmark sync.
func parseSync(args []string) (syncConfig, error) {
	config := syncConfig{Dir: filepath.Join("out", "bench")}
	flags := flag.NewFlagSet("sync", flag.ContinueOnError)
	rows := flags.String("rows", "", "names of the rows to measure, with commas between them; all when empty")
	flags.StringVar(&config.Dir, "dir", config.Dir, "where the results are written")
	flags.StringVar(&config.Profiles, "profiles", "", "where profiles of the daemons are written; none when empty")
	if err := flags.Parse(args); err != nil {
		return config, err
	}
	var names []string
	for _, row := range syncRows() {
		names = append(names, row.name)
	}
	for _, name := range strings.FieldsFunc(*rows, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.Contains(names, name) {
			return config, fmt.Errorf("no row is called %q: there are %s", name, strings.Join(names, ", "))
		}
		config.Rows = append(config.Rows, name)
	}
	return config, nil
}

// syncBench is a run of the benchmark.
type syncBench struct {
	config   syncConfig
	out      io.Writer
	binaries string
	row      string // that is being measured
	result   syncResult
}

// benchSync measures how fast, and at what cost, what changes in remote clusters
// is in effect on a node.
func benchSync(ctx context.Context, config syncConfig, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for namespaces, cgroups and eBPF")
	}
	where, err := thisMachine("sync")
	if err != nil {
		return err
	}
	b := &syncBench{config: config, out: out, result: syncResult{machine: where}}
	if b.binaries, err = lab.Build(ctx, lab.BuildConfig{}); err != nil {
		return err
	}
	var failed error
	for _, row := range syncRows() {
		if len(config.Rows) > 0 && !slices.Contains(config.Rows, row.name) {
			continue
		}
		if err := b.measure(ctx, row); err != nil {
			step(out, "failed: %v", err)
			failed = errors.Join(failed, err) // the others are worth measuring
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if err := b.result.print(out); err != nil {
		return errors.Join(failed, err)
	}
	name, err := writeResult(config.Dir, where.Name, b.result)
	if err == nil {
		fmt.Fprintf(out, "\nCPU is of all threads, memory is anonymous, without the maps and etcd's file.\nwritten to %s\n", name)
	}
	return errors.Join(failed, err)
}

func (b *syncBench) measure(ctx context.Context, row syncRow) error {
	fmt.Fprintf(b.out, "%s: %s\n", row.name, row.about)
	begin := time.Now()
	b.row = row.name
	ctx, cancel := context.WithTimeoutCause(ctx, rowTimeout, fmt.Errorf("not done after %s", rowTimeout))
	defer cancel()
	if err := row.run(ctx, b); err != nil {
		return fmt.Errorf("%s: %w", row.name, err)
	}
	step(b.out, "took %.0f s in all", time.Since(begin).Seconds())
	return nil
}

// with calls fn with a world and closes it.
func (b *syncBench) with(ctx context.Context, config worldConfig, fn func(*world) error) (err error) {
	w, err := newWorld(ctx, b.binaries, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	return fn(w)
}

// add puts a figure into the table.
func (b *syncBench) add(metric string, value float64, unit string) figure {
	return figure{Row: b.row, Metric: metric, Value: value, Unit: unit}
}

func (b *syncBench) keep(figures ...figure) {
	for _, f := range figures {
		step(b.out, "%s: %s %s", f.Metric, short(f.Value), f.Unit)
	}
	b.result.Figures = append(b.result.Figures, figures...)
}

// keepUse notes what the processes took.
func (b *syncBench) keepUse(what string, used map[string]use) {
	for _, name := range []string{apiServer, nodeAgent, peerName} {
		if u, ok := used[name]; ok {
			b.keep(
				b.add(what+": CPU of the "+name, u.cpu.Seconds(), "s"),
				b.add(what+": memory of the "+name+", highest", mebibytes(u.peak), "MiB"),
			)
		}
	}
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
