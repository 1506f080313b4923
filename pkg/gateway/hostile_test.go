package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

const (
	joins   = "/causeway.join.v1.Join/Join"
	reads   = "/etcdserverpb.KV/Range"
	watches = "/etcdserverpb.Watch/Watch"

	// idleConnections are how many one opens that says nothing more.
	idleConnections = 1000

	// mostMemory is what all of one attack may keep, in bytes of this process, in
	// which the attackers are too.
	mostMemory = 256 << 20
)

// attack is one way to be a burden. It leaves open what it has opened.
type attack struct {
	name  string
	roles []pki.Role // who does it; "" has no certificate
	run   func(b *bed, config *tls.Config, method string)
	// ends says that the gateway closes the connections.
	ends bool
}

// each has the attack made on a few connections, each of them after its handshakes.
func each(attack func(conn net.Conn, method string)) func(*bed, *tls.Config, string) {
	return func(b *bed, config *tls.Config, method string) {
		for range 4 {
			conn := b.hostile(config)
			write(conn, preface+frame(frameSettings, 0, 0, ""))
			attack(conn, method)
		}
	}
}

func attacks() []attack {
	const many = 10000
	everybody := []pki.Role{"", pki.RolePeer}
	return []attack{
		{name: "handshakes that drip", roles: []pki.Role{""}, run: func(b *bed, _ *tls.Config, _ string) {
			for range maxHandshakes + 100 {
				conn, err := net.Dial("tcp", b.gateway.Addr().String())
				if err != nil {
					b.t.Fatal(err)
				}
				b.t.Cleanup(func() { _ = conn.Close() })
				write(conn, "\x16")
			}
			b.eventually("all have come", func() bool { return b.refused(reasonLimit) >= 100 })
		}},
		{name: "prefaces that drip", roles: everybody, run: func(b *bed, config *tls.Config, _ string) {
			for range 2 * maxOf(pki.RolePeer) {
				write(b.hostile(config), preface[:3])
			}
		}},
		{name: "idle connections", roles: everybody, run: func(b *bed, config *tls.Config, _ string) {
			before := b.refused(reasonLimit)
			for range idleConnections {
				write(b.hostile(config), preface+frame(frameSettings, 0, 0, ""))
			}
			// A stranger has no more places than maxAnonymous, a peer fewer.
			b.eventually("all have come", func() bool { return b.refused(reasonLimit) >= before+idleConnections-maxAnonymous })
		}},
		{name: "headers without end", roles: everybody, run: each(func(conn net.Conn, method string) {
			write(conn, frame(frameHeaders, 0, 1, fields(method)))
			for range 100 {
				write(conn, frame(frameContinuation, 0, 1, "\x00"+text("a")+text("b")))
			}
		})},
		{name: "halves of messages", roles: everybody, run: each(func(conn net.Conn, method string) {
			for i := range uint32(maxStreams) {
				write(conn, call(2*i+1, method), message(2*i+1, maxRequest, "half"))
			}
		})},
		{name: "messages that are too large", roles: everybody, run: each(func(conn net.Conn, method string) {
			write(conn, call(1, method), message(1, 1<<31, ""))
			for range 256 {
				write(conn, frame(frameData, 0, 1, strings.Repeat("x", 16<<10)))
			}
		})},
		{name: "pings", roles: everybody, ends: true, run: each(func(conn net.Conn, _ string) {
			for range many / 100 {
				write(conn, strings.Repeat(frame(framePing, 0, 0, "12345678"), 100))
			}
		})},
		{name: "settings", roles: everybody, run: each(func(conn net.Conn, _ string) {
			for range many / 100 {
				write(conn, strings.Repeat(frame(frameSettings, 0, 0, "\x00\x03\x00\x00\x00\x01"), 100))
			}
		})},
		{name: "calls that are reset", roles: everybody, run: each(func(conn net.Conn, method string) {
			for i := range uint32(many / 4) {
				write(conn, call(2*i+1, method)+frame(frameReset, 0, 2*i+1, "\x00\x00\x00\x08"))
			}
		})},
		{name: "headers that unfold", roles: everybody, run: each(func(conn net.Conn, method string) {
			// A field of 4,000 bytes goes to the table, then is named by a byte each.
			write(conn, frame(frameHeaders, 0, 1, fields(method)+"\x40"+text("a")+text(strings.Repeat("b", 4000))))
			for range 64 {
				write(conn, frame(frameContinuation, 0, 1, strings.Repeat("\xbe", 16<<10)))
			}
		})},
		{name: "frames that are too large", roles: everybody, ends: true, run: each(func(conn net.Conn, _ string) {
			write(conn, frame(frameData, 0, 1, strings.Repeat("x", 1<<24-1)))
		})},
		{name: "watches without end", roles: []pki.Role{pki.RolePeer}, run: each(func(conn net.Conn, _ string) {
			write(conn, call(1, watches))
			request, _ := proto.Marshal(create(nodes, nodesEnd))
			for range many {
				write(conn, message(1, len(request), string(request)))
			}
		})},
		{name: "answers that nobody reads", roles: []pki.Role{pki.RolePeer}, run: unread},
	}
}

// unread are watches from the beginning on all that ever was, and reads of it, of a
// reader that lets nothing be sent.
func unread(b *bed, config *tls.Config, _ string) {
	watch := create(nodes, nodesEnd)
	watch.GetCreateRequest().StartRevision = 1
	create, _ := proto.Marshal(watch)
	read, _ := proto.Marshal(&pb.RangeRequest{Key: []byte(nodes), RangeEnd: []byte(nodesEnd), Limit: 1000})
	for range 4 {
		conn := b.hostile(config)
		write(conn, preface+window0())
		for i := range uint32(maxHolderStreams / 2) {
			write(conn, call(4*i+1, watches)+message(4*i+1, len(create), string(create)))
			write(conn, call(4*i+3, reads)+message(4*i+3, len(read), string(read))+frame(frameData, endStream, 4*i+3, ""))
		}
	}
}

// othersGoOn fails unless another peer hears of a change on a watch of before and
// reads, an agent and an operator are answered, and somebody else may join.
func (b *bed) othersGoOn(before pb.Watch_WatchClient, value string) {
	b.t.Helper()
	// etcd gives up after some seconds, which a machine that does much else needs.
	b.eventually("a change is written", func() bool { return b.etcd.Put(b.ctx(), nodes+"changed", []byte(value)) == nil })
	for {
		if event := b.next(before); len(event.Events) > 0 && string(event.Events[len(event.Events)-1].Kv.Value) == value {
			break
		}
	}
	if _, err := b.kv(pki.RolePeer, "north").Range(b.ctx(), &pb.RangeRequest{Key: []byte(nodes + "changed")}); err != nil {
		b.t.Errorf("another peer: %v", err)
	}
	for role, method := range map[pki.Role]string{
		pki.RoleAgent: "/causeway.feed.v1.Feed/Who", pki.RoleAdmin: "/causeway.admin.v1.Admin/Who",
	} {
		if err := b.dial(role, "other").Invoke(b.ctx(), method, new(emptypb.Empty), new(wrapperspb.StringValue)); err != nil {
			b.t.Errorf("%s: %v", role, err)
		}
	}
	err := b.dial("", "").Invoke(b.ctx(), joins, new(emptypb.Empty), new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unimplemented { // let through, to a service that this gateway has not
		b.t.Errorf("who joins: %v", err)
	}
}

func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Whatever one does, with a peer's certificate or without any, the others are
// answered, and the gateway's memory is bounded. It takes long since each limit is
// gone beyond, and by as much as it takes to see that nothing grows.
func TestOthersGoOn(t *testing.T) {
	b := newBed(t)
	var keys []string
	for i := range 10000 {
		keys = append(keys, fmt.Sprintf("%snode-%d", nodes, i))
	}
	b.putAll(keys, strings.Repeat("x", 64))
	north := b.watch(b.dial(pki.RolePeer, "north"))
	b.ask(north, create(nodes, nodesEnd))
	b.othersGoOn(north, "before")
	for _, a := range attacks() {
		for _, role := range a.roles {
			t.Run(fmt.Sprintf("%s/%s", a.name, role), func(t *testing.T) { b.suffer(t, a, role, north) })
		}
	}
}

func (b *bed) suffer(t *testing.T, a attack, role pki.Role, north pb.Watch_WatchClient) {
	sub := *b
	sub.t, sub.hostiles = t, nil
	method := joins
	if role != "" {
		method = reads
	}
	before := memory()
	a.run(&sub, sub.hostileTLS(role), method)
	sub.othersGoOn(north, t.Name())
	if now := memory(); now > before+mostMemory {
		t.Errorf("%d MiB more are in use", (now-before)>>20)
	}
	if !a.ends {
		return
	}
	for _, conn := range sub.hostiles {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection is still open")
		}
	}
}
