package probe

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	// attempts is how often a question is repeated, each after answerTime.
	attempts   = 3
	answerTime = time.Second
	// A large packet is tried largeAttempts times, each for largeTime: the path is
	// known to answer by then.
	largeAttempts = 2
	largeTime     = 600 * time.Millisecond
	// leastMTU is what IPv6 asks of every link, and where the search begins; below
	// it, that of IPv4 does (RFC 791).
	leastMTU  = 1280
	leastMTU4 = 576
	// settle is how long our programs may take to tell of what they dropped.
	settle = 400 * time.Millisecond
)

// asker asks on one path, once.
type asker struct {
	network Network
	target  target
	token   uint64
	conn    Conn
	number  uint16
	through through
	result  round
}

// ask returns what comes of asking at the target once. known is the MTU that
// passed before. It takes at most some 15 s.
func ask(ctx context.Context, network Network, t target, n *Neighbours, known int) round {
	a := &asker{network: network, target: t, token: rand.Uint64()}
	a.result.from = t.from
	a.result.failed = a.run(ctx, n, known)
	return a.result
}

func (a *asker) run(ctx context.Context, n *Neighbours, known int) error {
	open := a.network.Ask
	if a.target.native {
		open = func(ctx context.Context, pod, _ netip.Addr) (Conn, error) { return a.network.Pod(ctx, pod) }
	}
	conn, err := open(ctx, a.target.from, a.target.to)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	a.conn = conn
	if a.target.native {
		if err := a.greet(ctx, n); err != nil {
			return err
		}
	} else if pod := ofFamily(n.Pods, a.target.to); pod.IsValid() {
		if a.network.Mark(ctx, pod, a.target.to, message{kind: kindMark, token: a.token}.encode(0)) == nil {
			a.result.pod = pod
		}
	}
	for range attempts {
		a.result.asked++
		start := time.Now()
		answer, err := a.exchange(ctx, 0, answerTime)
		if err != nil {
			return err
		}
		if answer == nil {
			continue
		}
		a.result.answered++
		a.result.rtt, a.result.seen, a.result.marked, a.result.says = time.Since(start), answer.seen, answer.marked, answer.says
		a.large(ctx, known)
		if a.target.native && !a.result.marked.IsValid() {
			_ = a.passes(ctx, 0) // the mark has a way of its own, and may come last
		}
		return nil
	}
	return nil
}

// device returns the MTU of the device that packets begin at, 0 when it is not known.
func (a *asker) device() int {
	if a.target.native {
		return a.through.mtu
	}
	mtu, err := a.network.MTU()
	if err != nil {
		return 0
	}
	return mtu
}

// large finds out how large packets may be.
func (a *asker) large(ctx context.Context, known int) {
	device := a.device()
	if device <= 0 {
		return
	}
	a.result.device = device
	low := leastMTU
	if device <= low {
		low = leastMTU4
	}
	if a.passes(ctx, device) {
		a.result.passes = device
		return
	}
	if known >= low && known < device && a.passes(ctx, known) && !a.passes(ctx, known+1) {
		a.result.passes = known
		return
	}
	if !a.passes(ctx, low) {
		return
	}
	for high := device; high-low > 1; {
		if middle := (low + high) / 2; a.passes(ctx, middle) {
			low = middle
		} else {
			high = middle
		}
	}
	a.result.passes = low
}

// passes reports whether a packet of that size, IP header included, does.
func (a *asker) passes(ctx context.Context, size int) bool {
	for range largeAttempts {
		answer, err := a.exchange(ctx, size-headers(a.target.to), largeTime)
		if err != nil {
			return false
		}
		if answer != nil {
			a.result.marked, a.result.says = answer.marked, answer.says // the mark may have come meanwhile
			return true
		}
	}
	return false
}

// exchange asks with so many bytes and waits for the answer, nil for none. That
// nobody listens there, and that the packet is too large to be sent, are none; an
// error says that nothing was sent.
func (a *asker) exchange(ctx context.Context, size int, wait time.Duration) (*message, error) {
	a.number++
	deadline := time.Now().Add(wait)
	if err := errors.Join(a.conn.SetReadDeadline(deadline), ctx.Err()); err != nil {
		return nil, err
	}
	return a.send(ctx, a.question(size), kindAnswer, deadline)
}

// question returns what is sent to ask with so many bytes.
func (a *asker) question(size int) []byte {
	if a.target.native {
		return a.relayed(size)
	}
	return message{kind: kindAsk, number: a.number, token: a.token}.encode(size)
}

// send sends and waits for what is of that kind, as exchange does.
func (a *asker) send(ctx context.Context, data []byte, kind byte, deadline time.Time) (*message, error) {
	_, err := a.conn.Write(data)
	if refused(err) { // of an earlier one, instead of sending
		a.result.refused = true
		_, err = a.conn.Write(data)
	}
	switch {
	case errors.Is(err, syscall.EMSGSIZE):
		return nil, nil
	case err != nil:
		return nil, err
	}
	buffer := make([]byte, 2*messageSize)
	for {
		n, err := a.conn.Read(buffer)
		if refused(err) {
			a.result.refused = true
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, ctx.Err()
		}
		if err != nil && time.Now().Before(deadline) {
			continue // an ICMP error, which is told once
		}
		if err != nil {
			return nil, nil
		}
		m, ok := decode(buffer[:n])
		if ok && m.kind == kindClosed && m.token == a.token {
			a.result.refused = true
		}
		if ok && m.kind == kind && m.token == a.token && (m.number == a.number || kind == kindCookie) {
			return &m, nil
		}
	}
}

// refused reports whether the kernel says that nobody listens there.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
