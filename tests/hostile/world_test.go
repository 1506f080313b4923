package hostile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

const (
	// patience is how long a test waits for what must come true of 200 peers at once.
	patience = 3 * time.Minute
	// step is between two looks; a look asks the API server and reads all maps.
	step = 500 * time.Millisecond
	// firstPort is that of the first peer; all are on one node.
	firstPort = 20000
)

// world is the cluster east, with an API server and an agent that run, and its
// peers, which are in the hands of the test.
type world struct {
	t     *testing.T
	dir   string
	east  *lab.Cluster
	agent *lab.Node
	place *lab.Node // of the peers
	etcd  *kvstore.Client
	peers []*peer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l := labtest.New(t)
	w := &world{t: t, dir: t.TempDir()}
	w.east = labtest.AddSite(t, l, labtest.Site{Name: "east", ID: 1, Network: lab.Network{Kind: lab.Routed}, Mesh: true})
	outside, err := l.AddCluster(t.Context(), lab.ClusterSpec{Name: "outside", ID: 2})
	w.check(err)
	w.place, err = outside.AddNode(t.Context(), lab.NodeSpec{Name: "gateways", IPs: []netip.Addr{netip.MustParseAddr("192.0.2.200")}})
	w.check(err)
	w.agent = w.east.Nodes()[0]
	return w
}

// start starts the daemons, which know of no peer yet.
func (w *world) start() {
	w.t.Helper()
	_, err := w.east.StartAPIServer(within(w.t))
	w.check(err, w.east.AwaitReady(within(w.t)))
	_, err = w.agent.StartAgent(within(w.t))
	w.check(err, w.east.AwaitReady(within(w.t)))
	w.etcd, err = kvstore.Dial(kvstore.ClientConfig{
		Endpoints: []string{"unix://" + filepath.Join(w.east.DataDir(), "etcd", "etcd.sock")}, Logger: labtest.Logger(w.t),
	})
	w.check(err)
	w.t.Cleanup(func() { _ = w.etcd.Close() })
}

func (w *world) check(errs ...error) {
	w.t.Helper()
	if err := errors.Join(errs...); err != nil {
		w.t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// serve makes the peers, each a cluster of its own, on as many ports.
func (w *world) serve(peers ...*peer) {
	w.t.Helper()
	var g errgroup.Group
	for _, p := range peers {
		p.id = 2 + len(w.peers)
		p.name = fmt.Sprintf("p%d", p.id)
		w.peers = append(w.peers, p)
		g.Go(func() error { return w.listen(p) })
	}
	w.check(g.Wait())
}

func (w *world) listen(p *peer) error {
	p.address = net.JoinHostPort("192.0.2.200", strconv.Itoa(firstPort+p.id))
	l, err := w.place.Listen(w.t.Context(), "tcp", p.address)
	if err != nil {
		return err
	}
	p.pipes.Listener = l
	if p.Peer, err = rogue.NewPeer(p.name, filepath.Join(w.dir, p.name), uint64(p.id)<<32, &p.pipes); err != nil {
		return err
	}
	w.t.Cleanup(func() { _ = p.Close() })
	return nil
}

// connect has east read the peers.
func (w *world) connect(peers ...*peer) {
	w.t.Helper()
	for _, p := range peers {
		text, err := p.File("east", w.dir, p.address, p.claims()+p.file)
		w.check(err, w.east.WritePeer(p.name, text))
	}
}

// refused returns how often a peer's keys were refused by reason, by its name.
func (w *world) refused(ctx context.Context) (map[string]map[string]int, error) {
	text, err := w.east.APIServer().Metrics(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^causeway_peer_refused_keys_total\{cluster="(.*?)",reason="(.*?)"\} (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, err
		}
		if out[m[1]] == nil {
			out[m[1]] = map[string]int{}
		}
		out[m[1]][m[2]] = int(n)
	}
	return out, nil
}

// session is where the session with a peer stands.
type session struct {
	Name, State, Reason string
}

func (w *world) sessions(ctx context.Context) (map[string]session, error) {
	var answer struct{ Peers []session }
	out, err := w.east.Causeway(ctx, "peers", "--output", "json")
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	byName := map[string]session{}
	for _, s := range answer.Peers {
		byName[s.Name] = s
	}
	return byName, err
}

// settle looks until every peer is as wanted, and returns what is wrong with the
// others then, by case.
func (w *world) settle(peers []*peer, right func(*sight, *peer) error) map[*peer]error {
	w.t.Helper()
	ctx := within(w.t)
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	wrong := map[*peer]error{}
	var failed error
	for {
		s, err := w.look(ctx)
		if ctx.Err() == nil {
			failed = err
		}
		if err == nil {
			clear(wrong)
			for _, p := range peers {
				if err := right(s, p); err != nil {
					wrong[p] = err
				}
			}
			if len(wrong) == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if failed != nil {
				w.t.Fatal(failed)
			}
			return wrong
		case <-ticker.C:
		}
	}
}

// report makes a test of each peer's case.
func report(t *testing.T, peers []*peer, wrong map[*peer]error) {
	for _, p := range peers {
		t.Run(strings.ReplaceAll(p.of, " ", "_"), func(t *testing.T) {
			if err := wrong[p]; err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		})
	}
}

// right says how a peer's state, and what was refused of it, is other than its
// model says.
func (w *world) right(s *sight, p *peer) error {
	if err := w.same(s, p); err != nil {
		return err
	}
	return p.countsMatch(s.refused[p.name])
}

// same is right without the refusals.
func (w *world) same(s *sight, p *peer) error {
	if got := s.sessions[p.name]; got.State != "synced" {
		return fmt.Errorf("the session is %s: %s", got.State, got.Reason)
	}
	if strangers := s.foreign(w.peers); len(strangers) > 0 {
		return fmt.Errorf("clients get %v, which is no peer's", strangers)
	}
	return s.matches(p)
}

// settled waits until a peer is as its model says.
func (w *world) settled(p *peer) {
	w.t.Helper()
	if err := w.settle([]*peer{p}, w.right)[p]; err != nil {
		w.t.Fatalf("%s: %v", p.of, err)
	}
}
