package join

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// Who is put out in the middle of an exchange is out at its end: it is no peer, and
// the certificate that it was given is refused.
func TestPutOutInFlight(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	stream, answer, key, _ := east.halfJoined(west)

	_, err := east.disconnect("west")
	check(t, err)
	back, err := west.sign(west.ctx(), "east", time.Time{}, answer.GetRequest())
	check(t, err, stream.Send(&joinpb.JoinRequest{Step: &joinpb.JoinRequest_Certificate{Certificate: &joinpb.Certificate{Chain: back}}}))
	if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "put out meanwhile") {
		t.Errorf("it is kept: %v", err)
	}
	if east.book.member("west").Reads != nil {
		t.Error("it is a peer")
	}
	client := pb.NewKVClient(east.dialWith(string(answer.GetChain()), string(key)))
	if _, err := client.Range(east.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("its certificate: %v", err)
	}
}

// halfJoined has another cluster, called west, join up to the moment at which it has its
// certificate, of a key, and is to give one in return.
func (r *replica) halfJoined(west *replica) (s joinpb.Join_JoinClient, answer *joinpb.Answer, key []byte, hangUp func()) {
	r.site.t.Helper()
	request, key := asked(r.site.t, "causeway://east/peer/west")
	offer := r.offer(r.invite(&joinpb.InviteRequest{}), request)
	offer.Authority, offer.Facts.Addresses = west.authority.CertPEM(), []string{west.door.Addr().String()}
	conn, err := stranger.Dial(r.door.Addr().String(), "east", r.authority.CertPEM())
	check(r.site.t, err)
	hangUp = func() { _ = conn.Close() }
	r.site.t.Cleanup(hangUp)
	s, answer, err = open(r.ctx(), conn, offer)
	check(r.site.t, err)
	return s, answer, key, hangUp
}

// Who stops once it has its certificate is shown, and can be put out.
func TestBegun(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	_, answer, key, hangUp := east.halfJoined(west)
	hangUp()
	shown := func() *joinpb.Member {
		t.Helper()
		described, err := east.membership.Describe(east.ctx(), &joinpb.DescribeRequest{})
		check(t, err)
		if len(described.Members) != 1 || described.Members[0].Name != "west" {
			t.Fatalf("members: %v", described.Members)
		}
		return described.Members[0]
	}
	if m := shown(); m.Begun == nil || m.Origin != "" {
		t.Errorf("not shown: %v", m)
	}
	_, err := east.disconnect("west")
	check(t, err)
	if m := shown(); m.Begun != nil || m.Out == nil {
		t.Errorf("after it was put out: %v", m)
	}
	client := pb.NewKVClient(east.dialWith(string(answer.GetChain()), string(key)))
	if _, err := client.Range(east.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("its certificate: %v", err)
	}
}

// Who holds an exchange open does not get the name of a cluster that joins meanwhile.
func TestOvertakenInFlight(t *testing.T) {
	t.Parallel()
	east, west, other := newCluster(t, "east", 1), newCluster(t, "west", 2), newCluster(t, "west", 2)
	stream, answer, _, _ := east.halfJoined(other)

	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	back, err := other.sign(other.ctx(), "east", time.Time{}, answer.GetRequest())
	check(t, err, stream.Send(&joinpb.JoinRequest{Step: &joinpb.JoinRequest_Certificate{Certificate: &joinpb.Certificate{Chain: back}}}))
	if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "of that name joined meanwhile") {
		t.Errorf("it is kept: %v", err)
	}
	if reads := east.book.member("west").Reads; reads == nil || reads.CA != string(west.authority.CertPEM()) {
		t.Error("west is not who joined")
	}
}

// Of two that get a certificate to read by at the same moment one is kept, and the other
// hears that it is not.
func TestReaderOvertaken(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	ends := time.Now().Add(time.Hour)
	check(t, east.keepReader(east.ctx(), "north", member{}, reader{ID: 3, Ends: ends}))
	for _, r := range []reader{{ID: 3, Ends: ends}, {Invitation: "aa", Ends: ends}} {
		if err := east.keepReader(east.ctx(), "north", member{}, r); !errors.Is(err, errOvertaken) {
			t.Errorf("kept in the place of another one: %v", err)
		}
	}
	known := east.book.member("north")
	check(t, east.keepReader(east.ctx(), "north", known, reader{Invitation: "aa", Ends: ends.Add(time.Hour)}))
	check(t, east.keepReader(east.ctx(), "north", known, reader{Invitation: "aa", Ends: ends.Add(2 * time.Hour)})) // again
}

// What was taken back after it was proven is not used.
func TestTakenBackInFlight(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	inv, err := ParseInvitation(east.invite(&joinpb.InviteRequest{Peer: "west"}))
	check(t, err)
	proven, err := east.invitations.prove(east.ctx(), inv.ID[:], inv.Secret[:])
	check(t, err)
	_, err = east.invitations.takeBack(east.ctx(), "west")
	check(t, err)
	err = east.invitations.use(east.ctx(), inv.ID[:], proven, "west", sha256.Sum256(nil), time.Now())
	if !errors.Is(err, errUnknown) {
		t.Errorf("it is used: %v", err)
	}
}

// An invitation for anybody from before a cluster was put out does not bring it back;
// one made right after does.
func TestOlderInvitation(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	text := east.invite(&joinpb.InviteRequest{})
	unknownIsOut(t, east, "west")
	request, _ := asked(t, "causeway://east/peer/west")
	if _, err := east.send(east.offer(text, request)); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "put out after the invitation was made") {
		t.Errorf("by one of before: %v", err)
	}
	_, err := east.send(east.offer(east.invite(&joinpb.InviteRequest{}), request))
	check(t, err)
}

// Who may not use an invitation makes no work: it hears that, not what else is wrong.
func TestRefusedBeforeWork(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	request, _ := asked(t, "causeway://east/peer/west")
	used := east.invite(&joinpb.InviteRequest{})
	_, err := east.send(east.offer(used, request))
	check(t, err)
	other, _ := asked(t, "causeway://east/peer/west")
	for want, offer := range map[string]*joinpb.Offer{
		"was used already":        east.offer(used, other),
		"it is for north":         east.offer(east.invite(&joinpb.InviteRequest{Peer: "north"}), request),
		"has more than 16384 byt": east.offer(east.invite(&joinpb.InviteRequest{}), request),
	} {
		offer.Authority = make([]byte, maxPEM)
		if strings.HasPrefix(want, "has more") {
			offer.Authority = make([]byte, maxPEM+1)
		}
		if _, err := east.send(offer); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "authority that was sent") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// unknownIsOut puts a cluster out that is not known yet, which is an error besides.
func unknownIsOut(t *testing.T, r *replica, name string) {
	t.Helper()
	if _, err := r.disconnect(name); err == nil || !strings.Contains(err.Error(), "there is no peer "+name) {
		t.Fatalf("put out: %v", err)
	}
}

// A name that nobody has is put out all the same, and is an error.
func TestDisconnectUnknown(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	said, err := east.disconnect("wset")
	if err == nil || !strings.Contains(err.Error(), "there is no peer wset here") || len(said) != 1 {
		t.Errorf("said %q, %v", said, err)
	}
	if east.book.member("wset").Out.IsZero() {
		t.Error("it is not out")
	}
	said, err = east.disconnect("wset") // known from then on
	if err != nil || !strings.Contains(strings.Join(said, " "), "wset is not read") {
		t.Errorf("said %q, %v", said, err)
	}
}

func TestExplain(t *testing.T) {
	if got := explain("east", status.Error(codes.Unknown, "\x1b")).Error(); got != "east: ?" {
		t.Errorf("explained: %q", got)
	}
}

// No certificate is signed that is not valid for long yet.
func TestOutAhead(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	request, _ := asked(t, "causeway://east/peer/west")
	if _, err := east.sign(east.ctx(), "west", time.Now().Add(time.Hour), request); err == nil || !strings.Contains(err.Error(), "ahead of the clock of east") {
		t.Errorf("it is signed: %v", err)
	}
	_, err := east.sign(east.ctx(), "west", time.Now().Add(-time.Hour), request)
	check(t, err)
}
