package join

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// anotherDoor opens a further gateway of the cluster, until the returned func is called.
func (r *replica) anotherDoor() (door *gateway.Gateway, stop func()) {
	t := r.site.t
	t.Helper()
	tls, err := r.authority.ServerConfig(nil, nil)
	check(t, err)
	door = gateway.New(gateway.Config{
		Cluster: r.site.config.Name, Listen: "127.0.0.2:0", TLS: tls, Etcd: r.site.etcd.Etcd().ActiveConnection(),
		Register: r.Register, Exclusions: gateway.NewExclusions(quiet()), Logger: quiet(),
	})
	stop = run(t, door.Run)
	await(t, door.Listening())
	return door, stop
}

// says publishes by which addresses the cluster is reached.
func (r *replica) says(addresses ...string) {
	r.site.t.Helper()
	value, err := wire.EncodeConfig(r.site.config, addresses...)
	check(r.site.t, err, r.site.etcd.Put(r.ctx(), wire.ConfigKey(r.site.config.Name), value))
}

// awaitEndpoints waits until west is read at these addresses and no others.
func (r *replica) awaitEndpoints(want ...string) {
	r.site.t.Helper()
	want = endpoints(want)
	eventually(r.site.t, func() error {
		if p, _ := r.peer("west"); !slices.Equal(p.Endpoints, want) {
			return fmt.Errorf("west is read at %v, want %v", p.Endpoints, want)
		}
		return nil
	})
}

// awaitHeard waits until something was heard of west after a time.
func (r *replica) awaitHeard(west *replica, after time.Time) {
	r.site.t.Helper()
	eventually(r.site.t, func() error {
		check(r.site.t, west.site.etcd.Put(r.ctx(), wire.HeartbeatKey, wire.EncodeTime(time.Now())))
		if p, _ := r.peer("west"); !p.Heartbeat.After(after) {
			return fmt.Errorf("nothing is heard of west since %s", p.Heartbeat)
		}
		return nil
	})
}

// A peer that is reached elsewhere says so where it is read, and is followed there, by
// every replica, without another session. What it never said stays: it was given by
// whoever joined it.
func TestReachedElsewhere(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1, "10.1.0.0/16"), newCluster(t, "west", 2, "10.2.0.0/16")
	_, err := east.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	first := west.door.Addr().String()
	east.awaitEndpoints(first)
	other := east.another()
	began, _ := east.peer("west")

	second, stopSecond := west.anotherDoor()
	west.says(first, second.Addr().String())
	for _, r := range []*replica{east, other} {
		r.awaitEndpoints(first, second.Addr().String())
	}
	third, _ := west.anotherDoor()
	for _, bad := range []string{"not an address", "[fe80::1%eth0]:1"} { // no file could have the second
		west.says("192.0.2.1:1", bad)
		eventually(t, func() error {
			if p, _ := east.peer("west"); !strings.Contains(p.LastRefused, bad) {
				return fmt.Errorf("the last that was refused is %q", p.LastRefused)
			}
			return nil
		})
	}
	west.says(third.Addr().String()) // what it said before goes with that
	east.awaitEndpoints(third.Addr().String())
	other.awaitEndpoints(third.Addr().String())
	stopSecond()
	east.awaitHeard(west, time.Now())
	if now, _ := east.peer("west"); now.Since != began.Since {
		t.Errorf("the session is since %s in its state, and was since %s", now.Since, began.Since)
	}

	// A restart begins with what stands there.
	east.stop()
	east.start()
	east.awaitEndpoints(third.Addr().String())
	east.awaitHeard(west, time.Now())
}

// What no peer ever said stays beside what it says.
func TestReachedAsGiven(t *testing.T) {
	t.Parallel()
	given := "vpn.example:8474"
	record := member{Reads: &reading{Endpoints: endpoints([]string{given, "192.0.2.1:1"}), CA: "ca", Cert: "cert"}}
	says := func(addresses ...string) {
		way := wayTo{endpoints: endpoints(addresses), origin: record.Reads.origin()}
		if now := way.changes(record); now != nil {
			record.Reads.Endpoints, record.Reads.Said = now, way.endpoints
		}
		if again := way.changes(record); again != nil {
			t.Errorf("said again it changes to %v", again)
		}
	}
	for _, step := range []struct{ says, want []string }{
		{[]string{"192.0.2.1:1", "192.0.2.2:1"}, []string{"192.0.2.1:1", "192.0.2.2:1", given}},
		{[]string{"192.0.2.2:1"}, []string{"192.0.2.2:1", given}},
		{[]string{"192.0.2.3:1"}, []string{"192.0.2.3:1", given}},
	} {
		says(step.says...)
		if got := record.Reads.Endpoints; !slices.Equal(got, endpoints(step.want)) {
			t.Errorf("%v is said, and there is %v, want %v", step.says, got, step.want)
		}
	}
	for name, other := range map[string]member{
		"no peer":           {},
		"of another join":   {Reads: &reading{Endpoints: record.Reads.Endpoints, CA: "ca", Cert: "another"}},
		"of an etcd client": {Reads: &reading{CA: "ca", Cert: "cert", OneWay: true}},
	} {
		way := wayTo{endpoints: endpoints([]string{"192.0.2.9:1"}), origin: record.Reads.origin()}
		if now := way.changes(other); now != nil {
			t.Errorf("%s: changes to %v", name, now)
		}
	}
}

// What is said of a cluster that was put out since is not kept.
func TestReachedOfNobody(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1, "10.1.0.0/16"), newCluster(t, "west", 2, "10.2.0.0/16")
	_, err := east.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	east.Reached("west", []string{"192.0.2.1:1"})
	_, err = east.disconnect("west")
	check(t, err)
	east.Reached("west", []string{"192.0.2.2:1"})
	east.Reached("north", []string{"192.0.2.2:1"})
	east.book.writeReached(context.Background())
	for name, m := range east.book.all() {
		if m.Reads != nil {
			t.Errorf("%s is read: %+v", name, m.Reads)
		}
	}
}

// A replica that is cut off from a peer leaves alone what another one heard since.
func TestReachedHeardOnce(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1, "10.1.0.0/16"), newCluster(t, "west", 2, "10.2.0.0/16")
	_, err := east.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	first, other := west.door.Addr().String(), east.another()
	said := func(r *replica, addresses ...string) {
		r.Reached("west", addresses)
		r.book.writeReached(r.ctx())
	}
	said(east, "192.0.2.1:1")
	other.awaitEndpoints("192.0.2.1:1", first)
	said(other, "192.0.2.2:1")
	east.awaitEndpoints("192.0.2.2:1", first)
	east.book.writeReached(east.ctx())
	if m, _, _, err := east.book.current(east.ctx(), "west"); err != nil || !slices.Equal(m.Reads.Endpoints, endpoints([]string{"192.0.2.2:1", first})) {
		t.Errorf("the record has %v, %v", m.Reads.Endpoints, err)
	}
}
