// node-agent puts a node's share of the mesh in effect: what its cluster's API
// server tells it goes into eBPF maps, and stays there when the agent ends.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/agent"
	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/mesh"
	"github.com/causeway-mesh/causeway/pkg/observe"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/process"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

const name = "node-agent"

func main() {
	var cfg config
	os.Exit(process.Main(process.Daemon{
		Name:     name,
		Summary:  "Translates connections to global services on one node.",
		Flags:    cfg.flags,
		Validate: cfg.validate,
		Headroom: process.Headroom{Least: 16 << 20, Most: 256 << 20},
		Run:      func(ctx context.Context, log *slog.Logger) error { return run(ctx, &cfg, log) },
		Commands: []process.Command{new(cleanup).command(), new(lookAround).command(), new(mountBPFFS).command(), new(probePod).command()},
	}))
}

func run(ctx context.Context, cfg *config, log *slog.Logger) (err error) {
	log = log.With("cluster", cfg.cluster, "node", cfg.node)
	registry := process.NewRegistry(name)
	status := process.NewStatus(process.StatusConfig{Listen: cfg.listenHTTP, Gatherer: registry, Profiles: cfg.pprof, Logger: log})
	state, carried := readiness{status.Condition("state")}, status.Condition("mesh")
	carried.SetReady() // services do not wait for it

	if err := enrol(ctx, cfg, log); err != nil {
		return err
	}
	tls, err := pki.ClientConfig(cfg.files, pki.MeshNames(cfg.cluster)...)
	if err != nil {
		return err
	}
	keeper := renewal.NewKeeper(renewal.KeeperConfig{
		Files: cfg.files, Cluster: cfg.cluster, Report: true, Logger: log.With("cluster", cfg.cluster), Metrics: renewal.NewMetrics(registry),
	})
	keeper.Look()
	plane, err := datapath.Open(datapath.Config{
		BPFFS: cfg.bpffs, Cgroup: cfg.cgroup, MapCapacity: cfg.mapCapacity, Reverse: cfg.reverse(),
		Logger: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plane.Close()) }()
	if err := selfTest(ctx, plane, log); err != nil {
		return err
	}

	// The agent reports to the client, which in turn hands it what it receives.
	var client *feed.Client
	sink := agent.New(agent.Config{
		Datapath: plane, Cluster: cfg.cluster, Node: cfg.node, Logger: log, Registerer: registry,
		Report: func(applied feed.Applied) { state.set(applied); client.Report(applied) },
	})
	last := feed.OpenState(feed.StateConfig{
		Dir: cfg.stateDir, Cluster: cfg.cluster, Boot: bootID(), Logger: log, Registerer: registry,
	})
	observer := observe.NewAgent(observe.AgentConfig{Logger: log, Registerer: registry})
	desk := &desk{
		node: cfg.node, socket: cfg.socket(), log: log,
		server: observe.NewServer(observe.ServerConfig{Read: book{cfg.cluster, last}.read, Logger: log, Registerer: registry}),
	}
	prober := probe.NewProber(probe.ProberConfig{
		Network: probe.Sockets{Device: cfg.meshDevice}, Items: items(cfg.meshDevice), Logger: log, Registerer: registry,
	})
	carrier := mesh.New(mesh.Config{
		State: last, Cluster: cfg.cluster, Node: cfg.node, Port: cfg.meshPort,
		Network: mesh.NewKernel(mesh.KernelConfig{
			BPFFS: cfg.bpffs, Device: cfg.meshDevice, MapCapacity: cfg.mapCapacity, Attach: packet.Method(cfg.attach),
			Observe: dropped(observer, prober), Logger: log, Registerer: registry,
		}),
		Report: func(m feed.Mesh) {
			carried.SetReady()
			if m.Error != "" {
				carried.SetNotReady(m.Error)
			}
			client.ReportMesh(m)
		},
		Neighbours: prober.Know, Logger: log, Registerer: registry,
	})
	client = feed.NewClient(feed.ClientConfig{
		Target: cfg.apiServer, TLS: tls, Node: cfg.node, Version: process.Version(),
		State: last, Sink: routed{sink, carrier}, Watch: carrier.Watch, Beside: beside(observer.Serve, prober.Serve, keeper.Serve), Logger: log, Registerer: registry,
	})

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return status.Run(ctx) })
	g.Go(func() error { return plane.Run(ctx) })
	g.Go(func() error { return last.Run(ctx) })
	g.Go(func() error { return sink.Run(ctx) })
	g.Go(func() error { return carrier.Run(ctx) })
	g.Go(func() error { return prober.Run(ctx) })
	g.Go(func() error { return desk.run(ctx, observer) })
	g.Go(func() error { return client.Run(ctx) })
	g.Go(func() error {
		stayEnrolled(ctx, cfg, lookAgain, log)
		return nil
	})
	return g.Wait()
}

// routeLimit is how long services wait for routes at most.
const routeLimit = time.Second

// routed is a Sink that gets nothing before there are routes to it.
type routed struct {
	feed.Sink
	carrier *mesh.Mesh
}

// Apply implements feed.Sink.
func (r routed) Apply(ctx context.Context, b feed.Batch) error {
	r.carrier.Settle(ctx, routeLimit)
	return r.Sink.Apply(ctx, b)
}

// bootID returns the kernel's id of this boot, "" when it has none.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// selfTest makes sure that the hooks translate. Full maps are no reason to stop:
// what is in them serves.
func selfTest(ctx context.Context, plane *datapath.Datapath, log *slog.Logger) error {
	err := plane.SelfTest(ctx)
	if errors.Is(err, datapath.ErrFull) {
		log.Error("no room for the self-test", "error", err)
		return nil
	}
	return err
}

// readiness is the condition that the first complete state is in the maps. What
// fails later leaves the last good state in effect, so it does not end it.
type readiness struct{ condition *process.Condition }

func (r readiness) set(applied feed.Applied) {
	switch {
	case applied.Revision != feed.Revision{}:
		r.condition.SetReady()
	case applied.Error != "":
		r.condition.SetNotReady(applied.Error)
	}
}
