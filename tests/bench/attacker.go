package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/bench/mesh"
	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
)

// hostileFile is the file in an attacker's folder by which it is read.
const hostileFile = "peer.yaml"

// How much an attacker says.
const (
	// flipEvery is the time between two changes of what flips.
	flipEvery = time.Millisecond
	// floodKeys are in a list, floodQuota of which may be used.
	floodKeys, floodQuota = 1_000_000, 10_000
	// listEvery is the time between two lists that are read from their beginning.
	listEvery = 2 * time.Second
	// largeEvery is the time between two values: nodes as large as are taken and of
	// largeSize, and those of tooLarge bytes, which no kind may have.
	largeEvery  = 50 * time.Millisecond
	largestNode = wire.MaxNodeBytes - 4<<10
	largeSize   = 900 << 10
	tooLarge    = 1400 << 10
)

// attack is what a hostile peer does for as long as it is let.
type attack struct {
	name string
	// every is the time between two steps.
	every time.Duration
	step  func(a *attacker, n int) error
}

// attacks returns all attacks, in the order in which they are measured.
func attacks() []attack {
	return []attack{
		{"an address that changes 1,000 times a second", flipEvery, func(a *attacker, n int) error {
			key, value, err := a.AddressPair(0)
			a.Say(rogue.Pair{Key: key, Value: bytes.ReplaceAll(value, []byte("app-0"), fmt.Appendf(nil, "app-%d", n))})
			return err
		}},
		{"1,000 services a second that come and go", flipEvery, func(a *attacker, n int) error {
			key, value, err := a.SlicePair(n%a.Services, 0, 0)
			a.Say(rogue.Pair{Key: key})
			a.Say(rogue.Pair{Key: key, Value: value})
			return err
		}},
		{"a node that comes and goes 1,000 times a second", flipEvery, func(a *attacker, _ int) error {
			key, value, err := a.NodePair(0, 0)
			a.Say(rogue.Pair{Key: key})
			a.Say(rogue.Pair{Key: key, Value: value})
			return err
		}},
		{"1,000 identities a second that are not its own", flipEvery, func(a *attacker, n int) error {
			other := mesh.Remote{Spec: a.Spec, Index: 0}
			_, value, err := other.IdentityPair(n % 500)
			key := strings.ReplaceAll(a.Layout().IdentityKey(0), "/0", "/"+strconv.Itoa(1<<16|256+n%500))
			a.Say(rogue.Pair{Key: key, Value: value})
			return err
		}},
		{"a list of 1,000,000 addresses, 10,000 of them in its quota, again and again", listEvery, (*attacker).flood},
		{"values of 0.9 and 1.4 MiB, 20 a second", largeEvery, func(a *attacker, n int) error {
			return a.large(n, []int{largeSize, tooLarge}[n%2])
		}},
		{"nodes as large as are taken, 20 a second", largeEvery, func(a *attacker, n int) error {
			return a.large(n, largestNode)
		}},
	}
}

// large says a node with a label of so many bytes.
func (a *attacker) large(n, size int) error {
	key, value, err := a.NodePair(n%10, n)
	a.Say(rogue.Pair{Key: key, Value: bytes.ReplaceAll(value, []byte(`"zone-`), []byte(`"`+strings.Repeat("z", size)))})
	return err
}

// attacker is a cluster that was taken over.
type attacker struct {
	mesh.Remote
	*rogue.Peer
}

// flood has its reader begin anew with a list.
func (a *attacker) flood(int) error {
	value, err := wire.EncodeAddress(&endpoint.Address{
		Cluster: a.Remote.Name(), Prefix: netip.MustParsePrefix("10.255.255.255/32"), HostIP: netip.MustParseAddr("192.168.255.1"),
		Identity: 6, Namespace: "default", Pod: "flood", ServiceAccount: "default",
	})
	if err != nil {
		return err
	}
	a.Replace()
	if err := a.publish(); err != nil {
		return err
	}
	a.Bend(rogue.Flood(a.Layout().Prefix(wire.Addresses), a.net(), floodKeys, func(ip string) []byte {
		return bytes.ReplaceAll(value, []byte("10.255.255.255"), []byte(ip))
	}))
	return nil
}

// net is the first groups of its IPv6 addresses.
func (a *attacker) net() string { return fmt.Sprintf("fd11:%x:0:1:1000", a.Index) }

// publish says what an honest cluster of its size does.
func (a *attacker) publish() error {
	var pairs []rogue.Pair
	for p, err := range a.State() {
		if err != nil {
			return err
		}
		pairs = append(pairs, rogue.Pair(p))
	}
	now := wire.EncodeTime(time.Now())
	pairs = append(pairs, rogue.Pair{Key: wire.HeartbeatKey, Value: now}, rogue.Pair{Key: a.Layout().Marker(wire.ServiceExports), Value: now})
	for _, kind := range wire.Kinds() {
		pairs = append(pairs, rogue.Pair{Key: a.Layout().Marker(kind), Value: now})
	}
	config, err := a.Config()
	a.Say(append(pairs, rogue.Pair(config))...)
	return err
}

// attackAs is the process of an attacker: attack, index, folder and address. It
// writes a byte to file descriptor 3 once it serves, and attacks until it is ended;
// who wants a pause stops it by a signal.
func attackAs(ctx context.Context, args []string) error {
	if len(args) < 4 {
		return errors.New("attack, index, folder and address are needed")
	}
	if err := pinAll(hostileCPU); err != nil {
		return err
	}
	index, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	listener, err := net.Listen("tcp", args[3])
	if err != nil {
		return err
	}
	remote := mesh.Remote{Spec: honest(), Index: index}
	a := &attacker{Remote: remote}
	if a.Peer, err = rogue.NewPeer(remote.Name(), args[2], uint64(index)<<32, listener); err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	if err := a.publish(); err != nil {
		return err
	}
	pods, hosts, _ := remote.Claims()
	rest := fmt.Sprintf("claims: {podCIDRs: ['%s', 'fd11:%x::/48'], nodeCIDRs: [%s]}\nimport: {quotas: {addresses: %d}}\n",
		strings.Join(pods, "', '"), index, strings.Join(hosts, ", "), floodQuota)
	text, err := a.File(ownCluster, args[2], args[3], rest)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(args[2], hostileFile), text, 0o600); err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	_, _ = ready.Write([]byte{1}) // without a reader nobody waits
	_ = ready.Close()
	return a.run(ctx, args[0])
}

// run makes the steps of an attack.
func (a *attacker) run(ctx context.Context, name string) error {
	for _, attack := range attacks() {
		if attack.name != name {
			continue
		}
		for n := 0; ; n++ {
			if err := sleep(ctx, attack.every); err != nil {
				return nil //nolint:nilerr // it was ended
			}
			if err := attack.step(a, n); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("no attack is called %q", name)
}
