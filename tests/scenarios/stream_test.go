package scenarios

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// Where a stream's receiver listens, and how far behind its rate a sender that
// had no time may get before it leaves out what is missing.
const (
	streamPort = 9998
	streamLag  = 200

	// arrival is how long the last datagrams may be under way.
	arrival = 10 * time.Second
	// underWay is how long a packet may wait for a processor, in ms.
	underWay = 50
)

// stream is datagrams, each of which counts, from one pod to an address of
// another one.
type stream struct {
	to             *lab.Pod
	ip             netip.Addr
	out            net.Conn
	in             net.PacketConn
	stop           context.CancelFunc
	end            func() // for good
	sending, ended sync.WaitGroup
	sent, received atomic.Int64
	arrived        []byte  // one for each that was sent, as far as it got; of receive
	sentAt         []int64 // when, in ms of the wall clock; of send
	failed         atomic.Pointer[error]
	overflow       int64 // of receive buffers in the pod, before
	backlog        int64 // of the machine's processors, before
}

// startStream sends so many datagrams a second, fewer where the machine has no
// time, until check or the end of the test.
func startStream(t *testing.T, from, to *lab.Pod, ip netip.Addr, rate int) *stream {
	t.Helper()
	s := &stream{to: to, ip: ip, overflow: overflows(t, to), backlog: backlogDrops(t)}
	check(t, to.Space().Do(func() (err error) {
		s.in, err = net.ListenPacket("udp", at(ip, streamPort))
		return err
	}))
	check(t, s.in.(*net.UDPConn).SetReadBuffer(4<<20))
	var err error
	s.out, err = from.Dial(t.Context(), "udp", at(ip, streamPort))
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	s.stop = cancel
	s.sending.Go(func() { s.send(ctx, rate) })
	s.ended.Go(s.receive)
	s.end = sync.OnceFunc(func() {
		cancel()
		s.sending.Wait()
		_ = errors.Join(s.out.Close(), s.in.Close())
		s.ended.Wait()
	})
	t.Cleanup(s.end)
	return s
}

func (s *stream) send(ctx context.Context, rate int) {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	data := make([]byte, 64) // begins with its number
	for begin, skipped := time.Now(), int64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due := int64(time.Since(begin).Seconds()*float64(rate)) - skipped - s.sent.Load()
		skipped += max(0, due-streamLag)
		for range min(due, streamLag) {
			binary.BigEndian.PutUint64(data, uint64(s.sent.Load()))
			s.sentAt = append(s.sentAt, time.Now().UnixMilli())
			if _, err := s.out.Write(data); err != nil {
				s.failed.CompareAndSwap(nil, &err)
			}
			s.sent.Add(1)
		}
	}
}

func (s *stream) receive() {
	data := make([]byte, 2048)
	for {
		if _, _, err := s.in.ReadFrom(data); err != nil {
			return
		}
		number := int(binary.BigEndian.Uint64(data))
		if more := number + 1 - len(s.arrived); more > 0 {
			s.arrived = append(s.arrived, make([]byte, more)...)
		}
		if s.arrived[number] == 0 {
			s.received.Add(1)
		}
		s.arrived[number] = 1
	}
}

// span is a time in ms of the wall clock.
type span struct{ from, to int64 }

// firstRule makes the first rule of a network namespace, and returns when. The kernel
// takes its table of local IPv4 addresses out of the main one then, and while it does, a
// packet may be looked up in neither: on two plain namespaces, one datagram of 150,000 a
// second is lost in one of 15 times.
func firstRule(t *testing.T, in *netspace.Space, r netspace.Rule) span {
	t.Helper()
	begun := time.Now()
	check(t, in.AddRule(r))
	return span{begun.UnixMilli(), time.Now().UnixMilli()}
}

// check ends the stream: all must have arrived but what the receiver's own buffer
// and the machine's processors had no room for, of which the kernel keeps count, and
// one for each first rule.
func (s *stream) check(t *testing.T, firstRules []span) {
	t.Helper()
	s.stop()
	s.sending.Wait()
	var missing, overflow, backlog int64
	for deadline := time.Now().Add(arrival); ; time.Sleep(10 * time.Millisecond) { // between two looks
		missing, overflow, backlog = s.sent.Load()-s.received.Load(), overflows(t, s.to)-s.overflow, backlogDrops(t)-s.backlog
		if missing <= overflow+backlog || time.Now().After(deadline) {
			break
		}
	}
	s.end()
	for _, rule := range firstRules {
		if s.lostIn(rule) {
			missing--
		}
	}
	if missing > overflow+backlog {
		t.Errorf("%d of %d datagrams to %s are lost; %d found no room in the receiver's buffer, %d in that of a processor; lost are\n%s",
			missing, s.sent.Load(), s.ip, overflow, backlog, s.lost())
	}
	if err := s.failed.Load(); err != nil {
		t.Errorf("send to %s: %v", s.ip, *err)
	}
	t.Logf("to %s: %d datagrams sent, %d received; %d found no room in the receiver's buffer, at most %d in that of a processor",
		s.ip, s.sent.Load(), s.received.Load(), overflow, backlog)
}

// lostIn reports whether one was lost that was sent in the time, or so shortly before
// that it was under way. The stream has ended.
func (s *stream) lostIn(during span) bool {
	for number, at := range s.sentAt {
		if at >= during.from-underWay && at <= during.to && !s.came(number) {
			return true
		}
	}
	return false
}

func (s *stream) came(number int) bool { return number < len(s.arrived) && s.arrived[number] > 0 }

// lost says which datagrams have not arrived, those that follow one another in one line.
// The stream has ended.
func (s *stream) lost() string {
	var out strings.Builder
	for first := 0; first < len(s.sentAt); first++ {
		if s.came(first) {
			continue
		}
		last := first
		for last+1 < len(s.sentAt) && !s.came(last+1) {
			last++
		}
		when := func(number int) string { return time.UnixMilli(s.sentAt[number]).UTC().Format("15:04:05.000") }
		fmt.Fprintf(&out, "%d to %d, sent at %s to %s\n", first, last, when(first), when(last))
		first = last
	}
	return out.String()
}

// overflows is how many datagrams of either family found no room in a receive
// buffer of the pod.
func overflows(t *testing.T, pod *lab.Pod) (total int64) {
	t.Helper()
	check(t, pod.Space().Do(func() error {
		four, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		six, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		lines := regexp.MustCompile(`(?m)^Udp: .*$`).FindAll(four, 2)
		if len(lines) != 2 {
			return fmt.Errorf("no counters of UDP in %q", four)
		}
		names, values := strings.Fields(string(lines[0])), strings.Fields(string(lines[1]))
		for i, name := range names {
			if name == "RcvbufErrors" || name == "MemErrors" {
				n, err := strconv.ParseInt(values[i], 10, 64)
				if err != nil {
					return err
				}
				total += n
			}
		}
		for _, found := range regexp.MustCompile(`(?m)^Udp6(?:Rcvbuf|Mem)Errors\s+(\d+)$`).FindAllSubmatch(six, -1) {
			n, err := strconv.ParseInt(string(found[1]), 10, 64)
			if err != nil {
				return err
			}
			total += n
		}
		return nil
	}))
	return total
}

// backlogDrops is how many packets, of everybody's on this machine, found no room
// in a processor's backlog: of a wire between namespaces nothing else can lose any.
func backlogDrops(t *testing.T) (total int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/softnet_stat")
	check(t, err)
	for line := range bytes.Lines(text) {
		n, err := strconv.ParseInt(strings.Fields(string(line))[1], 16, 64)
		check(t, err)
		total += n
	}
	return total
}
