// clustermesh-apiserver publishes a cluster to its peers, follows them, and
// tells the cluster's nodes what they need. There is one in each cluster.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/admin"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/observe"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/process"
	"github.com/causeway-mesh/causeway/pkg/publish"
)

const name = "clustermesh-apiserver"

// The command line's certificate is good for adminTTL; a new one is written every
// adminRenewal and at each start; one that could not be written after adminRetry.
const (
	adminTTL     = 90 * 24 * time.Hour
	adminRenewal = 24 * time.Hour
	adminRetry   = 10 * time.Second
)

func main() {
	var cfg config
	os.Exit(process.Main(process.Daemon{
		Name:     name,
		Summary:  "Publishes a cluster to its peers, follows them, and feeds the cluster's node agents.",
		Flags:    cfg.flags,
		Validate: cfg.validate,
		Headroom: process.Headroom{Least: 64 << 20, Most: 256 << 20},
		Run:      func(ctx context.Context, log *slog.Logger) error { return run(ctx, &cfg, log) },
	}))
}

// run keeps etcd and the status server, and all that needs them, until ctx ends
// or one of them fails.
func run(ctx context.Context, cfg *config, log *slog.Logger) error {
	registry := process.NewRegistry(name)
	status := process.NewStatus(process.StatusConfig{Listen: cfg.listenHTTP, Gatherer: registry, Profiles: cfg.pprof, Logger: log})
	kept, err := newKeeping(cfg, log, registry, status)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return status.Run(ctx) })
	g.Go(func() error {
		release, err := kept.restore(ctx)
		if err != nil {
			return unless(ctx, err)
		}
		defer release()
		return runAll(ctx, cfg, log, registry, status, kept)
	})
	return g.Wait()
}

// unless returns err, but not when ctx has ended.
func unless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// runAll runs etcd, and all that needs it, in a data directory that is as it was
// left.
func runAll(ctx context.Context, cfg *config, log *slog.Logger, registry *prometheus.Registry, status *process.Status, kept keeping) error {
	if err := cfg.makeDirs(); err != nil {
		return err
	}
	store, err := newStore(cfg, log)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return store.run(ctx) })
	g.Go(func() error { return serve(ctx, cfg, log, registry, status, store, kept) })
	err = g.Wait()
	kept.last(ctx)
	return err
}

// serve is the list of the parts that need etcd, and how they are joined.
func serve(ctx context.Context, cfg *config, log *slog.Logger, registry *prometheus.Registry, status *process.Status, store *store, kept keeping) error {
	etcdReady, listed, seeded, open := status.Condition("etcd"), status.Condition("source"), status.Condition("peers"), status.Condition("gateway")
	etcd, release, err := store.dial(ctx)
	if err != nil {
		if errors.Is(err, kvstore.ErrStopped) || ctx.Err() != nil {
			return nil // why it stopped is its own Run's to say
		}
		return err
	}
	defer release()

	filter, err := identity.NewFilter(cfg.excludedLabels)
	if err != nil {
		return err
	}
	meshRanges, err := cfg.meshRanges()
	if err != nil {
		return err
	}
	// Only who holds the data directory may write in it, so these come after etcd.
	pkiDir := filepath.Join(cfg.dataDir, "pki")
	authority, server, err := credentials(ctx, cfg, pkiDir, kept, etcd)
	if err != nil {
		return unless(ctx, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	election := store.election(cfg, etcd, registry)
	claimed := make(chan struct{})
	g.Go(func() error { return guard(ctx, authority, store, etcd, election, pkiDir, etcdReady, claimed) })
	g.Go(func() error { return kept.run(ctx) })
	if !kept.first(ctx, claimed) {
		return g.Wait()
	}
	g.Go(func() error { return election.Run(ctx) })

	nodes := feed.NewServer(feed.ServerConfig{Logger: log, Registerer: registry})
	engine, paths, modes := newEngine(cfg, nodes, len(meshRanges) > 0, log, registry)
	drops := observe.NewServer(observe.ServerConfig{Read: observe.BookOf(engine), Logger: log, Registerer: registry})
	book := trust.NewBook(meshRanges, cfg.reserved())
	told := newFeedback(engine)
	publisher := publish.New(publish.Config{
		Cluster: cfg.cluster(), Etcd: etcd, Election: election, IdentitiesFile: filepath.Join(cfg.dataDir, "identities"),
		MeshRanges: meshRanges, MeshFile: filepath.Join(cfg.dataDir, "mesh-addresses"),
		Filter: filter, Wrong: told.wrong, Local: localOf(cfg, book, engine), Logger: log, Registerer: registry,
	})
	reached, sink := newReach(cfg, publisher, publisher.SetGateway, log, registry)
	objects, kubernetes, err := cfg.newReader(sink, log, registry)
	if err != nil {
		return err
	}
	var members *join.Manager // peers run after it was made
	peers := peer.New(peer.Config{
		Cluster: cfg.cluster(), Dir: cfg.peers(), Resources: cfg.resources(), Joined: cfg.joined(), Etcd: etcd, Election: election, Engine: engine, Book: book,
		Renewed: func(name string) { members.Renewed(name) }, Reached: func(name string, addresses []string) { members.Reached(name, addresses) }, Logger: log, Registerer: registry,
	})
	if err := told.connect(kubernetes, cfg, election, peers, log, registry); err != nil {
		return err
	}
	handed := newHandout(cfg, kubernetes, func() bool { term, _ := election.Term(); return term.Writes() }, log, registry)
	found := &finder{cfg: cfg, client: kubernetes, log: log}
	declared := newResources(cfg, kubernetes, election, peers, told, log, registry)
	renewals := newRenewals(cfg, authority, log, registry)
	var door *gateway.Gateway // who asks the admin server comes through it
	adminServer := admin.New(admin.Config{
		Cluster: cfg.cluster(), Version: process.Version(), Started: time.Now(), ManifestsDir: cfg.manifestsDir, Kubernetes: serverOf(kubernetes),
		Engine: engine, Status: status, Peers: peers, Agents: nodes.Agents, Observe: drops, Probe: paths, RouteReason: modes.Reason, Listed: publisher.Listed(),
		SourceProblems: objects.Problems, RangeNotes: found.Notes, ClusterPeers: declared.problem, PublishProblems: all(publisher.Problems, told.Problems, handed.Problems, kept.problems), Writes: publisher.Err,
		Gateway: func() admin.Gateway { return reached.status(door.Addr()) }, Etcd: cfg.etcdEndpoints, Writer: election.Standing, Mirror: told.Standing, Certificates: func() []admin.Certificate { return certificates(nodes.Agents(), renewals.Agent, peers.Status()) },
	})
	door, members, authorities, err := newDoor(cfg, authority, server, etcd, engine, peers, kubernetes, kept, reached, log, registry, nodes, drops, paths, renewals, adminServer)
	if err != nil {
		return err
	}

	for _, run := range []func(context.Context) error{
		modes.Run, publisher.Run, objects.Run, found.Run, handed.Run, members.Run, authorities.Run, declared.run,
	} {
		g.Go(func() error { return run(ctx) })
	}
	g.Go(func() error { return told.Run(ctx, publisher.Listed(), peers.Seeded()) })
	g.Go(func() error { return runAfter(ctx, declared.loaded(ctx, members.Loaded()), peers.Run) })
	g.Go(func() error { return runAfter(ctx, members.Loaded(), door.Run) })
	g.Go(func() error { return openFeed(ctx, cfg, nodes, publisher, peers, listed, seeded) })
	g.Go(func() error { return welcome(ctx, cfg, authority, door, reached, open, log) })
	return g.Wait()
}

// localOf returns what takes the own cluster's part.
func localOf(cfg *config, book *trust.Book, engine *merge.Engine) func(merge.Update) {
	return func(u merge.Update) {
		book.Own(u.Nodes)
		engine.Apply(cfg.clusterName, u)
	}
}

// all returns what tells of the problems of several.
func all(of ...func() []string) func() []string {
	return func() (out []string) {
		for _, problems := range of {
			out = append(out, problems()...)
		}
		return out
	}
}

// credentials are the cluster's authority, and what its gateway shows and takes. What
// was kept is in etcd before.
func credentials(ctx context.Context, cfg *config, pkiDir string, kept keeping, etcd *kvstore.Client) (*pki.Authority, *tls.Config, error) {
	if err := kept.fill(ctx, etcd); err != nil {
		return nil, nil, err
	}
	authority, err := pki.OpenAuthority(pkiDir, cfg.clusterName)
	if err != nil {
		return nil, nil, err
	}
	server, err := authority.ServerConfig(cfg.reachedBy())
	return authority, server, err
}

// openFeed lets the agents have the state once it is whole: what they know is
// replaced by it.
func openFeed(ctx context.Context, cfg *config, nodes *feed.Server, publisher *publish.Publisher, peers *peer.Manager, listed, seeded *process.Condition) error {
	listed.SetNotReady(cfg.unread())
	seeded.SetNotReady("the peers' state has not been read yet")
	source, cached := publisher.Listed(), peers.Seeded()
	for source != nil || cached != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-source:
			source = nil
			listed.SetReady()
		case <-cached:
			cached = nil
			seeded.SetReady()
		}
	}
	nodes.Open(feed.View, feed.Slice, feed.Node)
	// Addresses wait for identities, which may have to wait for etcd.
	select {
	case <-ctx.Done():
	case <-publisher.Addressed():
		nodes.Open()
	}
	return nil
}

// welcome keeps what the command line needs in the data directory while the
// gateway listens, and has peers told where that is.
func welcome(ctx context.Context, cfg *config, authority *pki.Authority, door *gateway.Gateway, reached *reach, open *process.Condition, log *slog.Logger) error {
	select {
	case <-ctx.Done():
		return nil
	case <-door.Listening():
	}
	reached.tell(door.Addr())
	path := filepath.Join(cfg.dataDir, "admin.yaml")
	changed := authority.Changed()
	if err := writeAdmin(path, cfg, authority, door); err != nil {
		return err
	}
	open.SetReady()
	log.Info("ready for the command line", "admin_file", path)
	renewal := time.NewTicker(adminRenewal)
	defer renewal.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-renewal.C:
		case <-changed: // another authority is trusted, or signs
		}
		changed = authority.Changed()
		if err := writeAdmin(path, cfg, authority, door); err != nil {
			log.Warn("admin file is not renewed, will retry", "admin_file", path, "delay", adminRetry, "error", err)
			renewal.Reset(adminRetry)
			continue
		}
		renewal.Reset(adminRenewal)
	}
}

func writeAdmin(path string, cfg *config, authority *pki.Authority, door *gateway.Gateway) error {
	pair, err := authority.Issue(pki.Request{Role: pki.RoleAdmin, Name: "admin", TTL: adminTTL})
	if err != nil {
		return fmt.Errorf("issue the admin certificate: %w", err)
	}
	err = pki.WriteAdmin(path, pki.Admin{
		Endpoint: dialable(door.Addr()), ClusterName: cfg.clusterName,
		CA: string(authority.Bundle()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM),
	})
	if err != nil {
		return fmt.Errorf("write what the command line needs: %w", err)
	}
	return nil
}

// dialable returns the address to dial on this machine for one that is listened on.
func dialable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if ok && tcp.IP.IsUnspecified() {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return addr.String()
}

func (c *config) makeDirs() error {
	if err := os.MkdirAll(c.dataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	if dir := c.resources(); dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the directory of ClusterPeers: %w", err)
		}
	}
	if c.peersDir == "" {
		if err := os.MkdirAll(c.peers(), 0o700); err != nil {
			return fmt.Errorf("make the directory of peers: %w", err)
		}
	}
	return nil
}
