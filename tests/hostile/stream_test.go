package hostile

import (
	"context"
	"net"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
)

// conduct is a case of a store that does not behave as one: from the first
// connection on, and after a peer was read that behaved until then. What was said
// before stays in use, and the peer is followed again when it behaves.
type conduct struct {
	name string
	// bend makes the peer misbehave.
	bend func(*peer) rogue.Tamper
	// harmless says that the peer is followed all the same.
	harmless bool
	// wire bends its connections.
	wire func(net.Conn) net.Conn
}

// toData reports whether a request is for the peer's state, and not for what it
// says about itself.
func toData(key []byte) bool { return strings.HasPrefix(string(key), "cilium/state/") }

// ranges is a case of reads of the state that are answered otherwise.
func ranges(name string, answer func(*peer, *pb.RangeRequest, *pb.RangeResponse) (*pb.RangeResponse, error)) conduct {
	return conduct{name: name, bend: func(p *peer) rogue.Tamper {
		return rogue.Tamper{Range: func(_ context.Context, r *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
			if !toData(r.Key) || honest == nil {
				return honest, nil
			}
			return answer(p, r, honest)
		}}
	}}
}

// failing is a case of reads that fail.
func failing(name string, code codes.Code, text string) conduct {
	return ranges(name, func(*peer, *pb.RangeRequest, *pb.RangeResponse) (*pb.RangeResponse, error) {
		return nil, status.Error(code, text)
	})
}

// messages is a case of streams on which something else is sent.
func messages(name string, bend func(*peer, *pb.WatchResponse) []*pb.WatchResponse) conduct {
	return conduct{name: name, bend: func(p *peer) rogue.Tamper {
		return rogue.Tamper{Message: func(key string, m *pb.WatchResponse) []*pb.WatchResponse {
			if !toData([]byte(key)) {
				return []*pb.WatchResponse{m}
			}
			return bend(p, m)
		}}
	}}
}

// behind is a case of a message that is sent behind each that confirms a watch.
func behind(name string, more func(*peer, *pb.WatchResponse) *pb.WatchResponse) conduct {
	return messages(name, func(p *peer, m *pb.WatchResponse) []*pb.WatchResponse {
		if !m.Created {
			return []*pb.WatchResponse{m}
		}
		return []*pb.WatchResponse{m, more(p, m)}
	})
}

// streams is a case of whole streams.
func streams(name string, serve func(*peer, rogue.WatchStream) error) conduct {
	return conduct{name: name, bend: func(p *peer) rogue.Tamper {
		return rogue.Tamper{Watch: func(s rogue.WatchStream) error { return serve(p, s) }}
	}}
}

func quiet(c conduct) conduct {
	c.harmless = true
	return c
}

func event(m *pb.WatchResponse, key string, value []byte, revision int64) *pb.WatchResponse {
	e := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: revision}}
	if value == nil {
		e.Type = mvccpb.Event_DELETE
	}
	return &pb.WatchResponse{Header: m.Header, WatchId: m.WatchId, Events: []*mvccpb.Event{e}}
}

// tooLarge is more than a reader takes in one message. It is sent a few times: the
// machine has more to do.
const tooLarge, largeAnswers = 17 << 20, 10

// seldom fails after it was called some times.
func (p *peer) seldom() error {
	if p.Bent() > largeAnswers {
		return status.Error(codes.Unavailable, "enough")
	}
	return nil
}

// conducts returns all cases.
func conducts() []conduct {
	return slices.Concat(lists(), watches(), wires())
}

func lists() []conduct {
	unasked := func(key func(*peer) string) func(*peer, *pb.RangeRequest, *pb.RangeResponse) (*pb.RangeResponse, error) {
		return func(p *peer, _ *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
			honest.Kvs = append(slices.Clone(honest.Kvs), &mvccpb.KeyValue{Key: []byte(key(p)), Value: []byte("{}"), ModRevision: 1})
			return honest, nil
		}
	}
	return []conduct{
		ranges("a list with a key behind its range", unasked(func(*peer) string { return "cilium/zzz" })),
		ranges("a list with a key before its range", unasked(func(*peer) string { return "a" })),
		ranges("a list with a key of nothing", unasked(func(*peer) string { return "" })),
		ranges("a list with a key of another cluster", unasked(func(*peer) string { return wire.Layout{Cluster: "east"}.NodeKey("n1") })),
		ranges("a list of the same for ever", func(_ *peer, r *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
			honest.More = true
			honest.Kvs = []*mvccpb.KeyValue{{Key: r.Key, ModRevision: 1}}
			return honest, nil
		}),
		ranges("a list of another store", func(_ *peer, _ *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
			honest.Header.ClusterId++
			return honest, nil
		}),
		ranges("a list of the past", func(_ *peer, _ *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
			honest.Header.Revision = 1
			return honest, nil
		}),
		ranges("an answer of 17 MiB", func(p *peer, r *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
			honest.Kvs = []*mvccpb.KeyValue{{Key: r.Key, Value: make([]byte, tooLarge)}}
			return honest, p.seldom()
		}),
		failing("a list that is compacted", codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
		failing("a list of the future", codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
		failing("a list that is refused", codes.PermissionDenied, "etcdserver: permission denied"),
		failing("a list that has no leader", codes.Unavailable, "etcdserver: no leader"),
		failing("a list that is too large, always", codes.ResourceExhausted, "grpc: received message larger than max (1 vs. 1)"),
		failing("an error of 4 KiB of bytes", codes.Code(99), strings.Repeat("\x1b[2J\xff", 800)),
		{name: "a compression bomb", bend: func(p *peer) rogue.Tamper {
			return rogue.Tamper{Range: func(ctx context.Context, r *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
				if !toData(r.Key) {
					return honest, nil
				}
				_ = grpc.SetSendCompressor(ctx, gzip.Name)
				return &pb.RangeResponse{Header: honest.GetHeader(), Kvs: []*mvccpb.KeyValue{{Key: r.Key, Value: make([]byte, tooLarge)}}}, p.seldom()
			}}
		}},
		{name: "no answer at all", bend: func(*peer) rogue.Tamper {
			return rogue.Tamper{
				Range: func(ctx context.Context, _ *pb.RangeRequest, _ *pb.RangeResponse) (*pb.RangeResponse, error) {
					return nil, rogue.Hold(ctx)
				},
			}
		}},
		{name: "an answer of another type", bend: func(*peer) rogue.Tamper {
			return rogue.Tamper{Range: func(_ context.Context, _ *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
				// Its bytes say that the header is one of 3 GiB.
				out := &pb.RangeResponse{}
				out.ProtoReflect().SetUnknown([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0b})
				return out, nil
			}}
		}},
		{name: "an answer without header", bend: func(*peer) rogue.Tamper {
			return rogue.Tamper{Range: func(_ context.Context, _ *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
				return &pb.RangeResponse{}, nil
			}}
		}},
	}
}

func watches() []conduct {
	canceled := func(reason string, compact int64) func(*peer, *pb.WatchResponse) []*pb.WatchResponse {
		return func(_ *peer, m *pb.WatchResponse) []*pb.WatchResponse {
			return []*pb.WatchResponse{{Header: m.Header, WatchId: m.WatchId, Created: m.Created, Canceled: true, CancelReason: reason, CompactRevision: compact}}
		}
	}
	return []conduct{
		messages("watches that are canceled", canceled("no", 0)),
		messages("watches that are compacted", canceled("etcdserver: mvcc: required revision has been compacted", 1<<40)),
		messages("watches of another store", func(_ *peer, m *pb.WatchResponse) []*pb.WatchResponse {
			m.Header = &pb.ResponseHeader{ClusterId: 7, Revision: m.Header.Revision}
			return []*pb.WatchResponse{m}
		}),
		quiet(messages("watches that are confirmed twice", func(_ *peer, m *pb.WatchResponse) []*pb.WatchResponse {
			return []*pb.WatchResponse{m, m}
		})),
		quiet(behind("an event without a header", func(p *peer, m *pb.WatchResponse) *pb.WatchResponse {
			out := event(m, p.layout().NodeKey("none"), nil, 2)
			out.Header = nil
			return out
		})),
		quiet(behind("the end of a key that was never there", func(p *peer, m *pb.WatchResponse) *pb.WatchResponse {
			return event(m, p.layout().NodeKey("none"), nil, m.Header.Revision)
		})),
		quiet(behind("an event of revision 0", func(p *peer, m *pb.WatchResponse) *pb.WatchResponse {
			return event(m, p.layout().NodeKey("none"), nil, 0)
		})),
		quiet(behind("an event of a negative revision", func(p *peer, m *pb.WatchResponse) *pb.WatchResponse {
			return event(m, p.layout().NodeKey("none"), nil, -5)
		})),
		quiet(behind("progress to a revision that there is not", func(_ *peer, m *pb.WatchResponse) *pb.WatchResponse {
			return &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: m.Header.ClusterId, Revision: 1 << 60}, WatchId: -1}
		})),
		quiet(behind("progress back to revision 1", func(_ *peer, m *pb.WatchResponse) *pb.WatchResponse {
			return &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: m.Header.ClusterId, Revision: 1}, WatchId: -1}
		})),
		quiet(behind("an event for a watch that there is not", func(p *peer, m *pb.WatchResponse) *pb.WatchResponse {
			out := event(m, p.layout().NodeKey("none"), nil, m.Header.Revision)
			out.WatchId = 1 << 40
			return out
		})),
		quiet(behind("a fragment without an end", func(p *peer, m *pb.WatchResponse) *pb.WatchResponse {
			out := event(m, p.layout().NodeKey("none"), nil, m.Header.Revision)
			out.Fragment = true
			return out
		})),
		behind("an event of another cluster's key", func(_ *peer, m *pb.WatchResponse) *pb.WatchResponse {
			return event(m, wire.Layout{Cluster: "east"}.NodeKey("n1"), []byte("{}"), m.Header.Revision)
		}),
		behind("the end of a key of nothing", func(_ *peer, m *pb.WatchResponse) *pb.WatchResponse {
			return &pb.WatchResponse{Header: m.Header, Events: []*mvccpb.Event{{}}}
		}),
		behind("an event of 17 MiB", func(p *peer, m *pb.WatchResponse) *pb.WatchResponse {
			if p.seldom() != nil {
				return &pb.WatchResponse{Header: m.Header, Canceled: true}
			}
			return event(m, p.layout().NodeKey("none"), make([]byte, tooLarge), m.Header.Revision)
		}),
		streams("streams that end at once", func(*peer, rogue.WatchStream) error { return nil }),
		streams("streams that fail", func(*peer, rogue.WatchStream) error { return status.Error(codes.Internal, "no") }),
		streams("streams without a word", func(_ *peer, s rogue.WatchStream) error { return rogue.Hold(s.Context()) }),
		streams("watches that are never confirmed", func(_ *peer, s rogue.WatchStream) error {
			for {
				if _, err := s.Recv(); err != nil {
					return err
				}
				if err := s.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{}, WatchId: -1}); err != nil {
					return err
				}
			}
		}),
	}
}
