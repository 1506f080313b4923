package main

import (
	"context"

	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/observe"
	"github.com/causeway-mesh/causeway/pkg/probe"
)

// dropped returns what tells the observer of the packets that programs drop, and
// the prober of those that leave.
func dropped(observer *observe.Agent, prober *probe.Prober) func(context.Context, *packet.Plane) {
	return func(ctx context.Context, packets *packet.Plane) {
		_ = observer.Run(ctx, func(ctx context.Context, note func(observe.Event)) error {
			for e := range packets.Events(ctx) {
				note(eventOf(e))
				if e.Direction == packet.ToMesh {
					prober.Dropped(e.Source, e.Destination, e.Reason.String())
				}
			}
			return nil // as ctx has ended
		})
	}
}

func eventOf(e packet.Event) observe.Event {
	return observe.Event{
		Time: e.Time, Direction: observe.Direction(e.Direction.String()), Reason: e.Reason.String(),
		Source: e.Source, Destination: e.Destination, Protocol: e.Protocol, Tunnel: e.Tunnel,
		ClusterID: e.Cluster, Identity: e.Identity, Known: e.Known, Length: e.Length,
	}
}
