package packet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

// Direction is which way a packet went.
type Direction uint8

// The directions.
const (
	ToMesh   = Direction(bpf.MeshDirectionTO_MESH)
	FromMesh = Direction(bpf.MeshDirectionFROM_MESH)
)

// String returns to_mesh or from_mesh.
func (d Direction) String() string { return [...]string{"to_mesh", "from_mesh"}[d&1] }

// Reason is what became of a packet, and why.
type Reason uint8

// The reasons. All but the first two are drops; bpf/include/types.h says what
// each one means.
const (
	Passed      = Reason(bpf.MeshReasonPASSED)
	Late        = Reason(bpf.MeshReasonPASSED_LATE)
	Malformed   = Reason(bpf.MeshReasonDROP_MALFORMED)
	Protocol    = Reason(bpf.MeshReasonDROP_PROTOCOL)
	LinkScope   = Reason(bpf.MeshReasonDROP_LINK_SCOPE)
	Tunnel      = Reason(bpf.MeshReasonDROP_TUNNEL)
	NoNode      = Reason(bpf.MeshReasonDROP_NODE)
	Source      = Reason(bpf.MeshReasonDROP_SOURCE)
	Cluster     = Reason(bpf.MeshReasonDROP_CLUSTER)
	Identity    = Reason(bpf.MeshReasonDROP_IDENTITY)
	Number      = Reason(bpf.MeshReasonDROP_NUMBER)
	Destination = Reason(bpf.MeshReasonDROP_DESTINATION)
	Routed      = Reason(bpf.MeshReasonDROP_ROUTED)
	Unstable    = Reason(bpf.MeshReasonDROP_UNSTABLE)
	SelfTest    = Reason(bpf.MeshReasonDROP_SELF_TEST)

	reasons = Reason(bpf.MeshReasonREASONS)
)

// String returns the reason's name, in lower case.
func (r Reason) String() string {
	names := [...]string{
		Passed: "passed", Late: "late", Malformed: "malformed", Protocol: "protocol", LinkScope: "link_scope", Tunnel: "tunnel",
		NoNode: "node", Source: "source", Cluster: "cluster", Identity: "identity", Number: "number", Destination: "destination",
		Routed: "routed", Unstable: "unstable", SelfTest: "self_test",
	}
	if int(r) >= len(names) {
		return fmt.Sprintf("reason-%d", uint8(r))
	}
	return names[r]
}

// Event is a packet that was dropped. There is one for some of them: at most
// 100 a second of each direction and reason.
type Event struct {
	Time      time.Time
	Direction Direction
	Reason    Reason
	// Source and Destination are those of the packet in the tunnel; the zero
	// AddrPort when they could not be read. The port is 0 where there is none.
	Source, Destination netip.AddrPort
	Protocol            uint8 // of what is in the packet
	// Tunnel is the node at the other end, the zero Addr when it is not known.
	Tunnel netip.Addr
	// Cluster is the one of the node that sent it, or of the destination; 0
	// when it is not known.
	Cluster cluster.ID
	// Identity is what the sender says that the source is, Known what the maps
	// say; 0 is nothing.
	Identity, Known identity.Number
	Length          int // bytes of the frame in the tunnel
}

// eventInterval is how often the ring buffer is looked at. The programs wake
// nobody: a flood of bad packets is no flood of wake-ups.
const eventInterval = 100 * time.Millisecond

// eventQueue is how many events wait for a subscriber; more are lost to it.
const eventQueue = 1024

// watch hands events to subscribers.
type watch struct {
	mu          sync.Mutex
	subscribers map[chan Event]bool
}

func newWatch() *watch { return &watch{subscribers: map[chan Event]bool{}} }

// Events returns the events from now until ctx is done, when the channel is
// closed. Run must run. Who reads slowly misses some.
func (p *Plane) Events(ctx context.Context) <-chan Event {
	w, c := p.watch, make(chan Event, eventQueue)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subscribers[c] = true
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subscribers, c)
		close(c)
	})
	return c
}

func (w *watch) publish(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.subscribers {
		select {
		case c <- e:
		default: // it is slow
		}
	}
}

// eventMap returns a handle of the ring buffer in use.
func (p *Plane) eventMap() (*ebpf.Map, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.maps.event.Clone()
}

// run reads the ring buffer until ctx is done.
func (w *watch) run(ctx context.Context, open func() (*ebpf.Map, error)) error {
	ring, err := open()
	if err != nil {
		return fmt.Errorf("events of packets: %w", err)
	}
	defer ring.Close() // read only
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return fmt.Errorf("events of packets: %w", err)
	}
	defer reader.Close() // read only
	stop := context.AfterFunc(ctx, func() { _ = reader.Close() })
	defer stop()
	var record ringbuf.Record
	for {
		reader.SetDeadline(time.Now().Add(eventInterval))
		switch err := reader.ReadInto(&record); {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("events of packets: %w", err)
		default:
			if e, ok := decodeEvent(record.RawSample); ok {
				w.publish(e)
			}
		}
	}
}

// decodeEvent returns what a program wrote.
func decodeEvent(sample []byte) (Event, bool) {
	var v bpf.MeshPacketEvent
	if err := binary.Read(bytes.NewReader(sample), binary.NativeEndian, &v); err != nil {
		return Event{}, false // of a program of another version
	}
	e := Event{
		Time: sinceBoot(v.Time), Direction: Direction(v.Direction), Reason: Reason(v.Reason), Protocol: v.Protocol,
		Cluster: cluster.ID(v.Cluster), Identity: identity.Number(v.Identity), Known: identity.Number(v.Known), Length: int(v.Length),
	}
	if v.Tunnel != (ip{}) {
		e.Tunnel = ip(v.Tunnel).addr()
	}
	if v.Family != 0 {
		e.Source = netip.AddrPortFrom(ip(v.Source).addr(), pin.Swap16(v.SourcePortBe))
		e.Destination = netip.AddrPortFrom(ip(v.Destination).addr(), pin.Swap16(v.DestinationPortBe))
	}
	return e, true
}

// sinceBoot returns the time of the programs' clock.
func sinceBoot(ns uint64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Now() // the clock is there on every kernel
	}
	return time.Now().Add(time.Duration(int64(ns) - now.Nano()))
}
