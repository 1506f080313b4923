package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// One command makes both directions, and again changes nothing; one way is one way.
func TestJoin(t *testing.T) {
	t.Parallel()
	east, west, north := newCluster(t, "east", 1, "10.1.0.0/16"), newCluster(t, "west", 2, "10.2.0.0/16"), newCluster(t, "north", 3)
	text := east.invite(&joinpb.InviteRequest{})
	said, err := west.join(&joinpb.AcceptRequest{Invitation: text})
	check(t, err)
	if all := strings.Join(said, "\n"); !strings.Contains(all, "east is read: synced") || !strings.Contains(all, "a private key was made") {
		t.Errorf("said:\n%s", all)
	}
	east.awaitState("west", peer.Synced, "")

	before := west.book.member("east")
	said, err = west.join(&joinpb.AcceptRequest{Invitation: text})
	check(t, err)
	if !strings.Contains(said[0], "joined by this invitation already") || west.book.member("east").Reads.Key != before.Reads.Key {
		t.Errorf("done again: %q", said)
	}
	// The key never left: the two sides share none, and neither file has the other's.
	if east.book.member("west").Reads.Key == before.Reads.Key {
		t.Error("both sides have the same key")
	}

	_, err = north.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{Peer: "north"}), OneWay: true})
	check(t, err)
	north.awaitState("east", peer.Synced, "")
	if _, ok := east.peer("north"); ok {
		t.Error("east reads north, which joined one way")
	}
	described, err := east.membership.Describe(east.ctx(), &joinpb.DescribeRequest{})
	check(t, err)
	if len(described.Invitations) != 2 || described.Invitations[0].UsedBy == "" || described.Invitations[1].UsedBy == "" {
		t.Errorf("invitations: %v", described.Invitations)
	}
	if m := described.Members; len(m) != 2 || m[0].Name != "north" || m[0].Origin != "" || m[0].Reader == nil ||
		m[1].Name != "west" || m[1].Origin != originJoined || m[1].State != string(peer.Synced) {
		t.Errorf("members: %v", m)
	}
}

// What is refused says why, and changes nothing: the cluster that is right can
// use the invitation afterwards.
func TestRefusals(t *testing.T) {
	t.Parallel()
	east, west, twin := newCluster(t, "east", 1, "10.1.0.0/16"), newCluster(t, "west", 2, "10.2.0.0/16"), newCluster(t, "twin", 1, "10.1.5.0/24")
	refused := func(r *replica, request *joinpb.AcceptRequest, want ...string) {
		t.Helper()
		_, err := r.join(request)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: got %v, want it to say %q", r.site.config.Name, err, w)
			}
		}
	}
	text := east.invite(&joinpb.InviteRequest{})
	refused(twin, &joinpb.AcceptRequest{Invitation: text}, "twin both have the id 1", "overlaps 10.1.5.0/24 of twin")
	refused(east, &joinpb.AcceptRequest{Invitation: text}, "is from cluster east")
	refused(west, &joinpb.AcceptRequest{Invitation: text[:len(text)-1]}, "changed or cut off")
	refused(west, &joinpb.AcceptRequest{Invitation: text, Addresses: []string{"127.0.0.1:1"}}, "east can not reach west: 127.0.0.1:1", "--one-way")
	refused(west, &joinpb.AcceptRequest{Invitation: text, Addresses: []string{"x"}}, "not host:port")

	inv, err := ParseInvitation(text)
	check(t, err)
	altered := inv
	altered.Secret[0]++
	refused(west, &joinpb.AcceptRequest{Invitation: altered.Text()}, "east: this cluster has no such invitation")
	altered = inv
	altered.ID[0]++
	refused(west, &joinpb.AcceptRequest{Invitation: altered.Text()}, "east: this cluster has no such invitation")
	altered = inv
	altered.Addresses = []string{twin.door.Addr().String()}
	refused(west, &joinpb.AcceptRequest{Invitation: altered.Text()}, "another cluster than east answers")
	altered.Addresses = []string{"127.0.0.1:1"}
	refused(west, &joinpb.AcceptRequest{Invitation: altered.Text()}, "east is not reached: 127.0.0.1:1")

	refused(west, &joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{Peer: "north"})}, "it is for north, not for west")
	short := east.invite(&joinpb.InviteRequest{Ttl: durationpb.New(time.Second)})
	ended, err := ParseInvitation(short)
	check(t, err)
	eventually(t, func() error { // to the end of its time
		if !time.Now().After(ended.Expires) {
			return context.DeadlineExceeded
		}
		return nil
	})
	refused(west, &joinpb.AcceptRequest{Invitation: short}, "the invitation has ended: it was good until")

	_, err = west.join(&joinpb.AcceptRequest{Invitation: text})
	check(t, err)
	north := newCluster(t, "north", 3)
	refused(north, &joinpb.AcceptRequest{Invitation: text}, "was used already, by cluster west")
	if _, ok := north.peer("east"); ok {
		t.Error("north reads east")
	}
	// A name that is a peer's already is nobody's who has any invitation.
	west.book.mu.Lock()
	delete(west.book.members, "east") // as a cluster that calls itself west
	west.book.mu.Unlock()
	refused(west, &joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})}, "east has a peer west already", "--peer west")
}

// asked is a signing request that asks for more than it gets.
func asked(t *testing.T, uri string) (request, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	u, err := url.Parse(uri)
	check(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root", Organization: []string{"admins"}}, DNSNames: []string{"east.mesh.causeway.io"}, URIs: []*url.URL{u},
	}, private)
	check(t, err)
	text, err := x509.MarshalPKCS8PrivateKey(private)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// offer is what a joining cluster sends that reads one way.
func (r *replica) offer(text string, request []byte) *joinpb.Offer {
	r.site.t.Helper()
	inv, err := ParseInvitation(text)
	check(r.site.t, err)
	facts := Facts{Name: "west", ID: 2, Size: 255, Version: "v1.0.0", Time: time.Now()}
	return &joinpb.Offer{Id: inv.ID[:], Secret: inv.Secret[:], Facts: protoFacts(facts), Request: request}
}

// send makes the call as a program would that is not ours.
func (r *replica) send(offer *joinpb.Offer) (*joinpb.Answer, error) {
	r.site.t.Helper()
	conn, err := stranger.Dial(r.door.Addr().String(), r.site.config.Name, r.authority.CertPEM())
	check(r.site.t, err)
	defer func() { _ = conn.Close() }()
	_, answer, err := open(r.ctx(), conn, offer)
	return answer, err
}

// Whatever a request asks for, its answer says what the invitation gives.
func TestCertificateSaysWhatTheInvitationGives(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	for _, uri := range []string{"causeway://east/admin/admin", "causeway://east/agent/n1", "causeway://east/peer/north", "causeway://east/server/east"} {
		request, key := asked(t, uri)
		answer, err := east.send(east.offer(east.invite(&joinpb.InviteRequest{Peer: "west"}), request))
		check(t, err)
		until, err := pki.CheckClient(east.authority.CertPEM(), answer.Chain, key, pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: "west"})
		check(t, err)
		if left := time.Until(until); left > peerTTL || left < peerTTL-time.Hour {
			t.Errorf("valid for %s", left)
		}
		block, _ := pem.Decode(answer.Chain)
		cert, err := x509.ParseCertificate(block.Bytes)
		check(t, err)
		if len(cert.DNSNames) > 0 || cert.Subject.CommonName != "west" || len(cert.URIs) != 1 {
			t.Errorf("%s: %v, %v, %v", uri, cert.Subject, cert.DNSNames, cert.URIs)
		}
		conn := east.dialWith(string(answer.Chain), string(key))
		_, err = pb.NewKVClient(conn).Range(east.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)})
		check(t, err)
		_, err = joinpb.NewMembershipClient(conn).Describe(east.ctx(), &joinpb.DescribeRequest{})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: a peer that asks what an operator may: %v", uri, err)
		}
	}
	// The clock and the form of what is said are judged before anything is used up.
	text := east.invite(&joinpb.InviteRequest{Peer: "west"})
	request, _ := asked(t, "causeway://east/peer/west")
	for want, spoil := range map[string]func(*joinpb.Offer){
		"apart, more than":            func(o *joinpb.Offer) { o.Facts.Time.Seconds -= 3600 },
		"signing request unusable":    func(o *joinpb.Offer) { o.Request = []byte("x") },
		"cluster name":                func(o *joinpb.Offer) { o.Facts.Name = "../west" },
		"the authority that was sent": func(o *joinpb.Offer) { o.Authority = []byte("x") },
		"is not the authority of cluster west": func(o *joinpb.Offer) {
			o.Authority = east.authority.CertPEM()
		},
		"is not a range": func(o *joinpb.Offer) { o.Facts.Ranges = []string{"10.0.0.1/8"} },
	} {
		offer := east.offer(text, request)
		spoil(offer)
		if _, err := east.send(offer); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	if _, err := east.send(east.offer(text, request)); err != nil {
		t.Errorf("the invitation was used up by what was refused: %v", err)
	}
}

// A join that broke off is finished by doing it again, with the same key only.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	text := east.invite(&joinpb.InviteRequest{})
	inv, err := ParseInvitation(text)
	check(t, err)
	mine, err := west.pendingKey(west.ctx(), inv)
	check(t, err)
	offer := east.offer(text, []byte(mine.Request))
	offer.Authority = west.authority.CertPEM()
	offer.Facts.Addresses = []string{west.door.Addr().String()}
	if _, err := east.send(offer); err != nil { // and hangs up
		t.Fatal(err)
	}
	other, _ := asked(t, "causeway://east/peer/west")
	if _, err := east.send(east.offer(text, other)); err == nil || !strings.Contains(err.Error(), "was used already") {
		t.Errorf("another key: %v", err)
	}
	_, err = west.join(&joinpb.AcceptRequest{Invitation: text})
	check(t, err)
	west.awaitState("east", peer.Synced, "")
	east.awaitState("west", peer.Synced, "")
	if m := west.book.member("east"); m.Pending != nil || m.Reads.Key != mine.Key {
		t.Error("another key was made, or the pending one is kept")
	}
}

// Wrong secrets from an address are slowed down, right ones from it are not.
func TestGuessing(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	text := east.invite(&joinpb.InviteRequest{})
	request, _ := asked(t, "causeway://east/peer/west")
	wrong := east.offer(text, request)
	wrong.Secret = make([]byte, stranger.SecretBytes)
	for range stranger.FailuresPerWindow {
		if _, err := east.send(wrong); status.Code(err) != codes.Unauthenticated {
			t.Fatalf("a wrong secret: %v", err)
		}
	}
	conn, err := stranger.Dial(east.door.Addr().String(), "east", east.authority.CertPEM())
	check(t, err)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(east.ctx())
	answered := make(chan error, 1)
	go func() {
		_, _, err := open(ctx, conn, wrong)
		answered <- err
	}()
	if _, err := east.send(east.offer(text, request)); err != nil {
		t.Errorf("the right secret: %v", err)
	}
	select {
	case err := <-answered:
		t.Errorf("the eleventh wrong secret was answered at once: %v", err)
	default:
	}
	cancel()
	<-answered
}

// Who is put out is out at once, over a restart and over the loss of etcd's
// records; its state is out of use here; and a new invitation brings it back.
func TestDisconnect(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	text := east.invite(&joinpb.InviteRequest{})
	_, err := west.join(&joinpb.AcceptRequest{Invitation: text})
	check(t, err)
	east.awaitState("west", peer.Synced, "")
	had := west.book.member("east").Reads
	watch, err := pb.NewWatchClient(east.dialWith(had.Cert, had.Key)).Watch(east.ctx())
	check(t, err, watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(wire.HeartbeatKey)}}}))
	if created, err := watch.Recv(); err != nil || !created.Created {
		t.Fatalf("the watch does not begin: %v", err)
	}

	said, err := east.disconnect("west")
	check(t, err)
	if all := strings.Join(said, "\n"); !strings.Contains(all, "are refused") || !strings.Contains(all, "is read no more") {
		t.Errorf("said:\n%s", all)
	}
	if _, ok := east.peer("west"); ok {
		t.Error("it is still read")
	}
	check(t, east.site.etcd.Put(east.ctx(), wire.HeartbeatKey, wire.EncodeTime(time.Now())))
	if event, err := watch.Recv(); err == nil {
		t.Errorf("an open watch got %v", event)
	}
	west.awaitState("east", peer.Disconnected, "needs a new invitation to come back")
	refused := func(when string) {
		t.Helper()
		client := pb.NewKVClient(east.dialWith(had.Cert, had.Key))
		eventually(t, func() error { // a connection that was cut meanwhile says so first
			_, err := client.Range(east.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)})
			if err == nil {
				t.Errorf("%s: it reads", when)
			} else if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "taken back") {
				return fmt.Errorf("%s: %w", when, err)
			}
			return nil
		})
	}
	refused("at once")
	// The invitation of before is no way back, though it has not ended.
	if _, err := east.send(east.offer(text, []byte("x"))); err == nil || !strings.Contains(err.Error(), "no such invitation") {
		t.Errorf("by the old invitation: %v", err)
	}

	east.stop()
	check(t, east.site.etcd.Delete(east.ctx(), memberPrefix+"west"))
	east.start()
	refused("after a restart without what etcd knew")
	eventually(t, func() error {
		_, found, err := east.site.etcd.Get(east.ctx(), memberPrefix+"west")
		if err == nil && !found {
			err = os.ErrNotExist
		}
		return err
	})

	_, err = west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	west.awaitState("east", peer.Synced, "")
	east.awaitState("west", peer.Synced, "")
	refused("the old certificate, when there is a new one")
	if _, err := east.disconnect("east"); err == nil {
		t.Error("a cluster put itself out")
	}
}

// What is declared by a file wins over what joined, and is not removed by a command.
func TestDeclaredWins(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	declared := filepath.Join(west.peersDir, "east")
	text := strings.ReplaceAll(string(read(t, filepath.Join(west.dir, "east"))), "file: ", "file: "+west.dir+"/")
	check(t, os.WriteFile(declared, []byte(text), 0o600))
	origin := func() string {
		p, _ := west.peer("east")
		return west.origin(p)
	}
	eventually(t, func() error {
		if origin() != originFile {
			return os.ErrNotExist
		}
		return nil
	})
	west.awaitState("east", peer.Synced, "")
	said, err := west.disconnect("east")
	check(t, err)
	if last := said[len(said)-1]; !strings.Contains(last, declared) {
		t.Errorf("said %q", said)
	}
	check(t, os.Remove(declared))
	west.awaitGone("east")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return text
}

// What one replica is told all know: who joined, and who is out.
func TestReplicas(t *testing.T) {
	t.Parallel()
	first := newCluster(t, "east", 1)
	second := &replica{site: first.site, dir: t.TempDir(), peersDir: t.TempDir()}
	second.start()
	west := newCluster(t, "west", 2)
	both := []string{first.door.Addr().String(), second.door.Addr().String(), "127.0.0.1:1"}
	said, err := west.join(&joinpb.AcceptRequest{Invitation: first.invite(&joinpb.InviteRequest{Addresses: both})})
	check(t, err)
	if all := strings.Join(said, "\n"); !strings.Contains(all, "left out as it does not answer: 127.0.0.1:1") {
		t.Errorf("said:\n%s", all)
	}
	first.awaitState("west", peer.Synced, "")
	second.awaitState("west", peer.Synced, "")
	had := west.book.member("east").Reads
	if len(had.Endpoints) != 2 {
		t.Errorf("endpoints %q", had.Endpoints)
	}
	_, err = first.disconnect("west")
	check(t, err)
	second.awaitGone("west")
	eventually(t, func() error {
		conn := second.dialWith(had.Cert, had.Key)
		defer func() { _ = conn.Close() }()
		_, err := pb.NewKVClient(conn).Range(second.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)})
		if status.Code(err) != codes.Unauthenticated {
			return os.ErrPermission
		}
		return nil
	})
	// An invitation of one is good at the other.
	text := second.invite(&joinpb.InviteRequest{Addresses: both[:1]})
	_, err = west.join(&joinpb.AcceptRequest{Invitation: text})
	check(t, err)
	second.awaitState("west", peer.Synced, "")
	// etcd that is set back lets nobody in again.
	value := read(t, first.book.files.member("west"))
	m, err := parseMember("west", value)
	check(t, err)
	_, err = first.disconnect("west")
	check(t, err)
	second.awaitGone("west")
	out := first.book.member("west").Out
	check(t, first.site.etcd.Put(first.ctx(), memberPrefix+"west", m.encode()))
	eventually(t, func() error {
		text, _, err := first.site.etcd.Get(first.ctx(), memberPrefix+"west")
		check(t, err)
		if m, err := parseMember("west", text); err != nil || !m.Out.Equal(out) || m.Reads != nil {
			return os.ErrInvalid
		}
		return nil
	})
	for _, r := range []*replica{first, second} {
		if m := r.book.member("west"); m.Reads != nil || !m.Out.Equal(out) {
			t.Errorf("a record of before counts again: %+v", m)
		}
	}
}

// Reach says which addresses of a cluster another one reaches, and what is wrong
// with the others.
func TestReach(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	good := west.door.Addr().String()
	answer, err := east.membership.Reach(east.ctx(), &joinpb.ReachRequest{
		Name: "west", Fingerprint: west.fingerprint()[:], Addresses: []string{"127.0.0.1:1", good, east.door.Addr().String()},
	})
	check(t, err)
	if len(answer.Reached) != 1 || answer.Reached[0] != good || len(answer.Problems) != 2 || !strings.Contains(answer.Problems[1], "another cluster than west") {
		t.Errorf("%v", answer)
	}
	for _, bad := range []*joinpb.ReachRequest{
		{Name: "east", Fingerprint: west.fingerprint()[:], Addresses: []string{good}},
		{Name: "west", Fingerprint: west.fingerprint()[:3], Addresses: []string{good}},
		{Name: "west", Fingerprint: west.fingerprint()[:]},
	} {
		if _, err := east.membership.Reach(east.ctx(), bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// A stranger that says nothing, and too many of them, take no place from others
// for long, and what is no offer is refused.
func TestStrangers(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	connect := func() joinpb.JoinClient { // one each: a stranger's connection has few streams
		conn, err := stranger.Dial(east.door.Addr().String(), "east", east.authority.CertPEM())
		check(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return joinpb.NewJoinClient(conn)
	}
	const tooMany = 4
	answers := make(chan codes.Code, stranger.MaxPlaces+tooMany)
	var streams []joinpb.Join_JoinClient
	for range cap(answers) {
		stream, err := connect().Join(east.ctx())
		check(t, err)
		streams = append(streams, stream)
		go func() {
			_, err := stream.Recv()
			answers <- status.Code(err)
		}()
	}
	for range tooMany {
		if got := <-answers; got != codes.Unavailable {
			t.Errorf("one too many: %s", got)
		}
	}
	for _, stream := range streams { // the others hang up
		check(t, stream.CloseSend())
	}
	for range stranger.MaxPlaces {
		if got := <-answers; got != codes.InvalidArgument {
			t.Errorf("one that said nothing: %s", got)
		}
	}
	stream, err := connect().Join(east.ctx())
	check(t, err, stream.Send(&joinpb.JoinRequest{}))
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no offer: %v", err)
	}
	if _, err := east.membership.Invite(east.ctx(), &joinpb.InviteRequest{Ttl: durationpb.New(100 * 24 * time.Hour)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an invitation for 100 days: %v", err)
	}
	var keys int
	check(t, east.site.etcd.List(east.ctx(), kvstore.Prefix("causeway/"), func(kvstore.Item) error { keys++; return nil }))
	if keys != 0 {
		t.Errorf("strangers left %d keys in etcd", keys)
	}
}
