package probe

import (
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

const (
	// podRate is how many messages a second a probe pod looks at, podSourceRate of
	// one source. A pod is asked by a few nodes of each peer every 2 s, more often
	// while they look for the MTU.
	podRate       = 2000
	podSourceRate = 100
	// maxSessions bounds the rounds that go on at a time; one in which nothing is
	// asked for sessionTime is over.
	maxSessions = 512
	sessionTime = 4 * time.Second
	// opinionTime is how long what an agent said is told to those who ask.
	opinionTime = 30 * time.Second
	// maxPacket is the largest that IP knows.
	maxPacket = 1 << 16
)

// PodConfig is what NewPod needs.
type PodConfig struct {
	// Listen is where others ask; its port is also that of the other pods. What is
	// sent comes from that address, unless it is that of all.
	Listen netip.AddrPort
	Logger *slog.Logger
}

// Pod answers other clusters' probe pods, and asks them in place of the agent of
// its node: it is on the network of pods, and the agent is not. It knows nothing of
// the mesh and needs no rights. What it sends is never more, in bytes, than what
// made it send that; and it asks only for who has shown to be where it says.
type Pod struct {
	config PodConfig
	secret []byte

	mu       sync.Mutex
	all      *rate.Limiter
	sources  map[netip.Addr]*rate.Limiter
	sessions map[session]*relay
	// tokens are those of sessions, with the source of the mark that came.
	tokens   map[uint64]netip.Addr
	history  list.List // of session, the oldest first
	opinions map[cluster.ID]told
}

// session is one round of one agent.
type session struct {
	agent netip.AddrPort
	to    netip.Addr
	token uint64
}

// relay asks in one session.
type relay struct {
	conn net.Conn
	stop context.CancelFunc
	at   *list.Element
}

// told is what the agent said of a peer, and when.
type told struct {
	says opinion
	at   time.Time
}

// NewPod returns a Pod. It starts nothing.
func NewPod(c PodConfig) *Pod {
	p := &Pod{
		config: c, secret: make([]byte, sha256.Size), all: rate.NewLimiter(podRate, podRate),
		sources: map[netip.Addr]*rate.Limiter{}, sessions: map[session]*relay{}, tokens: map[uint64]netip.Addr{}, opinions: map[cluster.ID]told{},
	}
	_, _ = rand.Read(p.secret) // never fails
	return p
}

// Run answers until ctx ends.
func (p *Pod) Run(ctx context.Context) error {
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, "udp", p.config.Listen.String())
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	p.config.Logger.Info("answers other clusters' probes", "address", conn.LocalAddr().String())
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		cancel()
		_ = conn.Close()
		group.Wait()
	}()
	buffer := make([]byte, maxPacket)
	for {
		n, from, err := conn.ReadFrom(buffer)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // an ICMP error, which is told once
		}
		if source, ok := from.(*net.UDPAddr); ok {
			at := source.AddrPort()
			p.take(ctx, conn, &group, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), buffer[:n])
		}
	}
}

// take does what a message asks for.
func (p *Pod) take(ctx context.Context, conn net.PacketConn, group *sync.WaitGroup, from netip.AddrPort, data []byte) {
	m, ok := decode(data)
	if !ok || len(data) < podSize || !p.allow(from.Addr()) {
		return
	}
	reply := func(m message) { _, _ = conn.WriteTo(m.encode(podSize), net.UDPAddrFromAddrPort(from)) }
	switch m.kind {
	case kindHello:
		mtu, err := p.mtuTowards(ctx, from)
		if err != nil {
			p.config.Logger.Debug("MTU is not known", "error", err)
		}
		reply(message{kind: kindCookie, number: uint16(min(mtu, maxPacket-1)), token: m.token, cookie: p.cookie(from)})
	case kindMark:
		p.mark(m.token, from.Addr())
	case kindAsk:
		if len(data) < relaySize {
			return
		}
		p.sendMark(ctx, from.Addr(), m.token) // before the answer, which ends the round
		reply(message{kind: kindAnswer, number: m.number, token: m.token, seen: from.Addr(), says: p.thinks(m.asker)})
	case kindRelay:
		if len(data) < relaySize || m.cookie != p.cookie(from) || !m.seen.IsValid() {
			return
		}
		if r := p.open(ctx, conn, group, session{from, m.seen, m.token}); r != nil {
			p.hear(m.asked, m.says)
			m.kind, m.seen, m.cookie, m.says = kindAsk, netip.Addr{}, 0, 0
			p.ask(r, reply, m, len(data))
		}
	}
}

// ask sends a question of that size; what is too large for the device gets no
// answer, as what is too large for the way.
func (p *Pod) ask(r *relay, reply func(message), m message, size int) {
	_ = r.conn.SetReadDeadline(time.Now().Add(sessionTime))
	_, err := r.conn.Write(m.encode(size))
	if refused(err) { // of an earlier one, instead of sending
		reply(message{kind: kindClosed, number: m.number, token: m.token})
		_, _ = r.conn.Write(m.encode(size))
	}
}

// allow reports whether one more message of a source is looked at.
func (p *Pod) allow(from netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.sources[from]
	if limit == nil {
		if len(p.sources) >= maxMarks {
			clear(p.sources)
		}
		limit = rate.NewLimiter(podSourceRate, podSourceRate)
		p.sources[from] = limit
	}
	return limit.Allow() && p.all.Allow()
}

// cookie is what only who gets packets there can know.
func (p *Pod) cookie(of netip.AddrPort) uint64 {
	mac := hmac.New(sha256.New, p.secret)
	text, _ := of.MarshalBinary() // cannot fail
	_, _ = mac.Write(text)
	return binary.BigEndian.Uint64(mac.Sum(nil))
}

// mark remembers from where a packet with the token of a session came.
func (p *Pod) mark(token uint64, from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if had, known := p.tokens[token]; known && !had.IsValid() {
		p.tokens[token] = from
	}
}

// sendMark sends, as any pod's process may, to where a question came from: from a
// port of its own, so that it meets the NAT that a connection from here meets.
func (p *Pod) sendMark(ctx context.Context, to netip.Addr, token uint64) {
	conn, err := p.dial(ctx, netip.AddrPortFrom(to, p.config.Listen.Port()))
	if err != nil {
		return
	}
	_, _ = conn.Write(message{kind: kindMark, token: token}.encode(podSize))
	_ = conn.Close()
}

// hear notes what our agent thinks of the way to a peer.
func (p *Pod) hear(peer cluster.ID, says opinion) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cluster.Size511.ValidateID(peer) == nil {
		p.opinions[peer] = told{says, time.Now()}
	}
}

// thinks returns what our agent thinks of the way to a peer.
func (p *Pod) thinks(peer cluster.ID) opinion {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.opinions[peer]; time.Since(t.at) < opinionTime {
		return t.says
	}
	return 0
}

// open returns what asks in a session, nil when nothing can be sent. The oldest one
// gives way when there are too many.
func (p *Pod) open(ctx context.Context, conn net.PacketConn, group *sync.WaitGroup, s session) *relay {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.sessions[s]; r != nil {
		return r
	}
	to, err := p.dial(ctx, netip.AddrPortFrom(s.to, p.config.Listen.Port()))
	if err != nil {
		p.config.Logger.Debug("cannot ask", "address", s.to, "error", err)
		return nil
	}
	for len(p.sessions) >= maxSessions {
		p.drop(p.history.Front().Value.(session))
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &relay{to, cancel, p.history.PushBack(s)}
	p.sessions[s], p.tokens[s.token] = r, netip.Addr{}
	context.AfterFunc(ctx, func() { _ = to.Close() })
	group.Go(func() { p.follow(conn, s, r) })
	return r
}

// drop ends a session. The caller holds p.mu.
func (p *Pod) drop(s session) {
	r := p.sessions[s]
	if r == nil {
		return
	}
	r.stop()
	p.history.Remove(r.at)
	delete(p.sessions, s)
	delete(p.tokens, s.token)
}

// follow hands on what comes back in a session, until its time is over.
func (p *Pod) follow(conn net.PacketConn, s session, r *relay) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.sessions[s] == r {
			p.drop(s)
		}
	}()
	buffer := make([]byte, 2*podSize)
	for {
		n, err := r.conn.Read(buffer)
		var m message
		switch {
		case refused(err):
			m = message{kind: kindClosed, token: s.token}
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // an ICMP error, which is told once
		default:
			var ok bool
			if m, ok = decode(buffer[:n]); !ok || m.kind != kindAnswer || m.token != s.token {
				continue
			}
			p.mu.Lock()
			m.marked = p.tokens[s.token]
			p.mu.Unlock()
		}
		_, _ = conn.WriteTo(m.encode(podSize), net.UDPAddrFromAddrPort(s.agent))
	}
}

// dial opens the way to an address, from a port of its own.
func (p *Pod) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{Control: control(whole)}
	if own := p.config.Listen.Addr(); !own.IsUnspecified() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 0))
	}
	return dialer.DialContext(ctx, "udp", to.String())
}

// mtuTowards returns that of the device by which an address is reached, in bytes.
func (p *Pod) mtuTowards(ctx context.Context, to netip.AddrPort) (int, error) {
	conn, err := p.dial(ctx, to)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	own := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	devices, err := net.Interfaces()
	if err != nil {
		return 0, fmt.Errorf("list devices: %w", err)
	}
	for _, device := range devices {
		addresses, err := device.Addrs()
		if err != nil {
			continue // it has gone
		}
		for _, a := range addresses {
			prefix, err := netip.ParsePrefix(a.String())
			if has := prefix.Addr().Unmap(); err == nil && (has == own || has.IsLoopback() && own.IsLoopback()) {
				return device.MTU, nil
			}
		}
	}
	return 0, fmt.Errorf("no device has %s", own)
}
