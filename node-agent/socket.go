package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/admin/drops"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/observe"
)

// desk answers at a unix socket who asks on the node itself which packets it dropped,
// also while no API server can be reached.
type desk struct {
	adminpb.UnimplementedAdminServer
	node   string
	socket string // "" for none
	server *observe.Server
	log    *slog.Logger
}

// run answers until ctx is done, of what the agent notes. That it cannot is no reason
// for the agent to end.
func (d *desk) run(ctx context.Context, a *observe.Agent) error {
	if d.socket == "" {
		return nil
	}
	if err := d.serve(ctx, a); err != nil && ctx.Err() == nil {
		d.log.Warn("dropped packets can be seen through the API server only", "socket", d.socket, "error", err)
	}
	return nil
}

func (d *desk) serve(ctx context.Context, a *observe.Agent) error {
	// What is there was left by an agent before this one: a state folder has one.
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(d.socket, 0o600); err != nil {
		return errors.Join(err, listener.Close())
	}
	server := grpc.NewServer()
	adminpb.RegisterAdminServer(server, d)
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { d.server.Attend(ctx, d.node, a) })
	group.Go(func() {
		<-ctx.Done()
		server.Stop()
	})
	return server.Serve(listener)
}

// Observe implements adminpb.AdminServer.
func (d *desk) Observe(r *adminpb.ObserveRequest, stream grpc.ServerStreamingServer[adminpb.ObserveResponse]) error {
	return drops.Serve(d.server, func() []string { return []string{d.node} }, r, stream)
}

// book says who is who as far as a node is told: not what identities stand for.
type book struct {
	cluster string
	state   *feed.State
}

func (b book) read(use func(observe.Book)) { use(b) }

func (b book) Local() string { return b.cluster }

func (b book) AllNodes() map[node.Key]*node.Node {
	nodes, _, _ := b.state.Nodes() // what cannot be read is not known
	all := map[node.Key]*node.Node{}
	for _, n := range nodes {
		all[node.Key{Cluster: n.Cluster, Name: n.Name}] = n
	}
	return all
}

func (b book) Owner(a netip.Addr) (endpoint.Owner, bool) {
	owner, err := b.state.Owner(netip.PrefixFrom(a, a.BitLen()))
	if err != nil || owner == nil {
		return endpoint.Owner{}, false
	}
	return *owner, true
}

func (b book) Labels(n identity.Number) identity.Labels { return n.ReservedLabels() }
