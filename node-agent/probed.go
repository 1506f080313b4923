package main

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/probe"
)

// beside returns what runs all of them, each on its own, with one connection.
func beside(all ...func(context.Context, grpc.ClientConnInterface)) func(context.Context, grpc.ClientConnInterface) {
	return func(ctx context.Context, conn grpc.ClientConnInterface) {
		var group sync.WaitGroup
		for _, serve := range all {
			group.Go(func() { serve(ctx, conn) })
		}
		group.Wait()
	}
}

// items returns what lists all that is ours in the node's network: routes, of
// which there may be many, come last.
func items(device string) func() ([]probe.Item, error) {
	return func() ([]probe.Item, error) {
		h, err := host.Open(host.Config{Device: device})
		if err != nil {
			return nil, err
		}
		all, err := h.Items()
		var out, routes []probe.Item
		for _, i := range all {
			if item := (probe.Item{Kind: string(i.Kind), Name: i.Name}); i.Kind == host.TableRoute {
				routes = append(routes, item)
			} else {
				out = append(out, item)
			}
		}
		return append(out, routes...), errors.Join(err, h.Close())
	}
}
