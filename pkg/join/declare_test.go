package join

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// declaring is what an operator has of r to read it from the cluster named by.
func (r *replica) declaring(by string) *joinpb.DeclareRequest {
	r.site.t.Helper()
	pair, err := r.authority.Issue(pki.Request{Role: pki.RolePeer, Name: by, TTL: 100 * 24 * time.Hour})
	check(r.site.t, err)
	return &joinpb.DeclareRequest{
		Name: r.site.config.Name, Id: uint32(r.site.config.ID), Endpoints: []string{"https://" + r.door.Addr().String()},
		Ca: r.authority.CertPEM(), Cert: pair.CertPEM, Key: pair.KeyPEM,
	}
}

func (r *replica) declare(request *joinpb.DeclareRequest) ([]string, error) {
	return r.steps(r.membership.Declare(r.ctx(), request))
}

// A cluster is read by an etcd client's configuration, held to what was said of it, and
// can be put out; again, it gets other files.
func TestDeclare(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	request := west.declaring("east")
	request.Claims = protoClaims(claims(t, "pods 10.2.0.0/16"))
	said, err := east.declare(request)
	check(t, err)
	all := strings.Join(said, "\n")
	for _, want := range []string{"west answers at https://127.0.0.1:", "west claims pods 10.2.0.0/16", "one way: its certificate is good until", "(99 days)", "west is read: synced"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if diff := cmp.Diff([]string{"pods 10.2.0.0/16 agreed"}, east.agreedWith("west")); diff != "" {
		t.Error(diff)
	}
	described, err := east.membership.Describe(east.ctx(), &joinpb.DescribeRequest{})
	check(t, err)
	if m := described.Members; len(m) != 1 || !m[0].OneWay || m[0].Origin != originJoined || time.Until(m[0].Ends.AsTime()) < 99*24*time.Hour {
		t.Errorf("members: %v", m)
	}
	again := west.declaring("east")
	_, err = east.declare(again)
	check(t, err)
	eventually(t, func() error {
		if got := string(read(t, east.dir+"/west.key")); got != string(again.Key) {
			return errBusy
		}
		return nil
	})
	east.awaitState("west", peer.Synced, "")
	// West gets from east what it reads with, and both end at once.
	issued, err := east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "west", Id: 2})
	check(t, err, east.read(issued))
	if _, err := east.declare(west.declaring("east")); err != nil || !east.book.member("west").Reader.issued() {
		t.Errorf("declared anew: %v, reader %v", err, east.book.member("west").Reader)
	}
	_, err = east.disconnect("west")
	check(t, err)
	east.awaitGone("west")
	if err := east.read(issued); err == nil {
		t.Error("it reads")
	}
}

// What is wrong is said before anything changes.
func TestDeclareRefuses(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1, "10.1.0.0/16"), newCluster(t, "west", 2)
	strange := newCluster(t, "strange", 3)
	for want, spoil := range map[string]func(*joinpb.DeclareRequest){
		"has the id 2, not 4 (--id)":               func(r *joinpb.DeclareRequest) { r.Id = 4 },
		"within 1 to 255":                          func(r *joinpb.DeclareRequest) { r.Id = 0 },
		"not for any of north.mesh.":               func(r *joinpb.DeclareRequest) { r.Name = "north" },
		"is this cluster itself":                   func(r *joinpb.DeclareRequest) { r.Name = "east" },
		"10.1.0.0/16 (pods) of east overlaps":      func(r *joinpb.DeclareRequest) { r.Claims = protoClaims(claims(t, "pods 10.1.5.0/24")) },
		"is not https://host:port":                 func(r *joinpb.DeclareRequest) { r.Endpoints = []string{"http://127.0.0.1:1"} },
		"0 endpoints":                              func(r *joinpb.DeclareRequest) { r.Endpoints = nil },
		"the certificate of west: no certificate":  func(r *joinpb.DeclareRequest) { r.Cert = nil },
		"the CA of west":                           func(r *joinpb.DeclareRequest) { r.Ca = []byte("x") },
		"west is not read at https://127.0.0.1:1:": func(r *joinpb.DeclareRequest) { r.Endpoints = []string{"https://127.0.0.1:1"} },
		"server certificate of":                    func(r *joinpb.DeclareRequest) { r.Ca = strange.authority.CertPEM() },
		"the key has more than":                    func(r *joinpb.DeclareRequest) { r.Key = make([]byte, maxPEM+1) },
		"is not a range":                           func(r *joinpb.DeclareRequest) { r.Claims = []*joinpb.Claim{{Class: "pods", Range: "10"}} },
	} {
		request := west.declaring("east")
		spoil(request)
		if _, err := east.declare(request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if len(east.book.all()) > 0 {
		t.Errorf("known: %v", east.book.all())
	}
	check(t, west.site.etcd.Delete(west.ctx(), wire.ConfigKey("west")))
	if _, err := east.declare(west.declaring("east")); err == nil || !strings.Contains(err.Error(), "there is no cluster west at") {
		t.Errorf("what publishes nothing: %v", err)
	}
	west.site.publish()
	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	if _, err := east.declare(west.declaring("east")); err == nil || !strings.Contains(err.Error(), "peer that joined by an invitation") {
		t.Errorf("a peer that joined: %v", err)
	}
}

// What joined while a declaration was looked at stays, and so does a reader's name.
func TestDeclareMeanwhile(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{}), OneWay: true})
	check(t, err)
	before := east.book.member("west").Reader
	_, err = east.declare(west.declaring("east"))
	check(t, err)
	if after := east.book.member("west").Reader; before == nil || cmp.Diff(before, after) != "" {
		t.Errorf("reader %v, was %v", after, before)
	}
	_, err = west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{Peer: "west"})})
	check(t, err)
	known := east.book.member("west")
	err = east.keep(east.ctx(), "west", known, reading{OneWay: true})
	if err == nil || !strings.Contains(err.Error(), "peer that joined by an invitation") {
		t.Errorf("declared over a join: %v", err)
	}
	if diff := cmp.Diff(string(known.encode()), string(east.book.member("west").encode())); diff != "" {
		t.Error(diff)
	}
}
