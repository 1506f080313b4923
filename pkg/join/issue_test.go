package join

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// read reads a key with etcd's own client, as Cilium does, with what was issued.
func (r *replica) read(issued *joinpb.IssueResponse) error {
	r.site.t.Helper()
	pair, err := tls.X509KeyPair(issued.Cert, issued.Key)
	check(r.site.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(issued.Ca)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + issued.Addresses[0]}, Context: r.ctx(),
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: issued.Cluster + ".mesh.cilium.io"},
	})
	check(r.site.t, err)
	defer func() { _ = client.Close() }()
	_, err = client.Get(r.ctx(), wire.HeartbeatKey)
	return err
}

// What is issued reads with etcd's own client, for a year; another one is made by
// renewal alone, and all of them are refused when the cluster is put out.
func TestIssue(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	first, err := east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "west", Id: 2})
	check(t, err, east.read(first))
	if left := time.Until(first.Ends.AsTime()); left > issuedTTL || left < issuedTTL-time.Hour {
		t.Errorf("good for %s", left)
	}
	described, err := east.membership.Describe(east.ctx(), &joinpb.DescribeRequest{})
	check(t, err)
	if m := described.Members; len(m) != 1 || m[0].Name != "west" || m[0].Origin != "" || !m[0].Reader.GetIssued() || m[0].Reader.Id != 2 || !m[0].Reader.Ends.AsTime().Equal(first.Ends.AsTime()) {
		t.Errorf("members: %v", m)
	}
	for want, request := range map[string]*joinpb.IssueRequest{
		"west has a certificate until":           {Name: "west", Id: 2},
		"have the id 1":                          {Name: "north", Id: 1},
		"west, which reads east, and has the id": {Name: "north", Id: 2},
		"was issued here with its key":           {Name: "north", Renew: true},
		"is this cluster itself":                 {Name: "east", Id: 2},
		"cluster id 0 is not within":             {Name: "north"},
		"where others reach this cluster":        {Name: "north", Id: 3, Addresses: []string{"x"}},
	} {
		if _, err := east.membership.Issue(east.ctx(), request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", request, err, want)
		}
	}
	second, err := east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "west", Renew: true})
	check(t, err, east.read(second), east.read(first))
	if string(first.Key) == string(second.Key) || east.book.member("west").Reader.ID != 2 {
		t.Error("the same key, or another id")
	}
	// Its name is nobody's who has any invitation.
	request, _ := asked(t, "causeway://east/peer/west")
	if _, err := east.send(east.offer(east.invite(&joinpb.InviteRequest{}), request)); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "a cluster west reads east already") {
		t.Errorf("somebody else is west: %v", err)
	}
	said, err := east.disconnect("west")
	check(t, err)
	if strings.Contains(strings.Join(said, " "), "not known here") {
		t.Errorf("said %q", said)
	}
	for _, issued := range []*joinpb.IssueResponse{first, second} {
		if err := east.read(issued); err == nil || !strings.Contains(err.Error(), "taken back") {
			t.Errorf("after it was put out: %v", err)
		}
	}
	third, err := east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "west", Id: 2})
	check(t, err, east.read(third))
}

// The name of a cluster that joined one way is nobody else's; itself it may join anew.
func TestReaderKeepsItsName(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	text := east.invite(&joinpb.InviteRequest{})
	_, err := west.join(&joinpb.AcceptRequest{Invitation: text, OneWay: true})
	check(t, err)
	_, err = west.join(&joinpb.AcceptRequest{Invitation: text, OneWay: true})
	check(t, err)
	request, _ := asked(t, "causeway://east/peer/west")
	if _, err := east.send(east.offer(east.invite(&joinpb.InviteRequest{}), request)); err == nil || !strings.Contains(err.Error(), "--peer west") {
		t.Errorf("another cluster is west: %v", err)
	}
	if _, err := east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "west", Id: 2}); err == nil || !strings.Contains(err.Error(), "joined by an invitation") {
		t.Errorf("a certificate besides: %v", err)
	}
	_, err = west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{Peer: "west"})})
	check(t, err)
	east.awaitState("west", peer.Synced, "")
	if m := east.book.member("west"); m.Reader != nil {
		t.Errorf("it is a reader still: %+v", m.Reader)
	}
}

// What was issued is known with its authority, until the cluster is put out.
func TestIssuedIsKnown(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	_, err := east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "west", Id: 2})
	check(t, err)
	first := east.Issued()
	if len(first) != 1 || first[0].Name != "west" || first[0].Root != [32]byte(east.fingerprint()) || first[0].Ends.IsZero() {
		t.Fatalf("issued: %+v", first)
	}
	check(t, east.authority.Begin(), east.authority.Replace())
	_, err = east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "west", Renew: true})
	check(t, err)
	if again := east.Issued(); len(again) != 1 || again[0].Root == first[0].Root || again[0].Root != [32]byte(east.fingerprint()) {
		t.Errorf("issued again: %+v", again)
	}
	_, err = east.disconnect("west")
	check(t, err)
	if left := east.Issued(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}
