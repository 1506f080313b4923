package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	grpctls "google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// asProgram has the test binary be the program.
const asProgram = "CLUSTERMESH_APISERVER_TEST"

// program is an API server in a process of its own, which can be killed. Its
// address is the same at each start.
type program struct {
	journal
	t    *testing.T
	args []string
	host string
	dir  string
	kill func()
	wait func() error // until it ends, for how it ended
}

func (p *program) start() {
	p.t.Helper()
	p.dir = p.t.TempDir()
	p.startIn(p.dir)
}

func (p *program) startIn(dir string) {
	p.t.Helper()
	command := exec.CommandContext(p.t.Context(), os.Args[0], append([]string{"--data-dir=" + dir}, p.args...)...)
	command.Env = append(os.Environ(), asProgram+"=1")
	command.Stdout, command.Stderr = p, p
	if err := command.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.wait = sync.OnceValue(command.Wait)
	p.kill = func() {
		_ = command.Process.Kill() // it may have ended
		_ = p.wait()
	}
	p.t.Cleanup(p.kill)
}

// readyz returns what /readyz says.
func (p *program) readyz() (ready bool, text string) {
	answer, err := http.Get("http://" + p.host + ":9878/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer func() { _ = answer.Body.Close() }()
	body, _ := io.ReadAll(answer.Body)
	return answer.StatusCode == http.StatusOK, string(body)
}

// dial connects to a gateway with an admin file, or with an agent's.
func dial(t *testing.T, admin pki.Admin) *grpc.ClientConn {
	t.Helper()
	tls, err := admin.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+admin.Endpoint, grpc.WithTransportCredentials(grpctls.NewTLS(tls)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// membership returns the service by which the command line joins clusters.
func membership(t *testing.T, dir string) joinpb.MembershipClient {
	t.Helper()
	admin, err := pki.ReadAdmin(filepath.Join(dir, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return joinpb.NewMembershipClient(dial(t, admin))
}

const stateManifest = `apiVersion: v1
kind: Namespace
metadata: {name: mesh}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: node-agent, namespace: mesh}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-1, namespace: mesh}
spec: {serviceAccountName: node-agent, nodeName: node-1, containers: [{name: agent, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {name: gone, namespace: mesh, labels: {app: gone}}
spec: {serviceAccountName: node-agent, nodeName: node-1, containers: [{name: web, image: none}]}
`

// enrol returns what the agent shows that began by the token of the pod agent-1 of a
// namespace, at the API server with a data directory.
func enrol(t *testing.T, plane *kubelab.ControlPlane, namespace, dir string) pki.ClientFiles {
	t.Helper()
	token, err := plane.Kubectl(t.Context(), "", "create", "token", "node-agent", "--namespace="+namespace,
		"--audience="+stranger.Audience, "--bound-object-kind=Pod", "--bound-object-name=agent-1")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := pki.ReadAdmin(filepath.Join(dir, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	files := pki.ClientFiles{CAFile: filepath.Join(own, "ca.crt"), CertFile: filepath.Join(own, "agent.crt"), KeyFile: filepath.Join(own, "agent.key")}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = stranger.EnrolAccount(ctx, files, stranger.Account{
		Cluster: "east", Node: "node-1", Addresses: []string{admin.Endpoint},
		AuthorityFile: filepath.Join(dir, "pki", "ca.crt"), Token: strings.TrimSpace(token),
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// accepted has an agent ask, with what it had before, whom it is to trust.
func accepted(t *testing.T, p *program, files pki.ClientFiles) error {
	t.Helper()
	var text [3]string
	for i, file := range []string{files.CAFile, files.CertFile, files.KeyFile} {
		read, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text[i] = string(read)
	}
	conn := dial(t, pki.Admin{Endpoint: p.host + ":8474", ClusterName: "east", CA: text[0], Cert: text[1], Key: text[2]})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := rotationpb.NewHolderClient(conn).Trust(ctx, &rotationpb.TrustRequest{Chain: []byte(text[1])}, grpc.WaitForReady(true))
	if err == nil && string(answer.GetAuthorities()) != text[0] {
		return errors.New("another authority is to be trusted")
	}
	return err
}

// secretsOf returns the private keys in a data directory, as they stand in its files.
func secretsOf(t *testing.T, dir string) (keys []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.Contains(path, "/etcd/") {
			return err
		}
		text, err := os.ReadFile(path)
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if strings.Contains(block.Type, "KEY") {
				keys = append(keys, strings.Split(string(pem.EncodeToMemory(block)), "\n")[1])
			}
		}
		return err
	})
	if err != nil || len(keys) < 3 {
		t.Fatalf("%d keys in %s: %v", len(keys), dir, err)
	}
	return keys
}

// TestStateSecret loses an API server with its directory, while the Kubernetes API is
// away: it waits for that, and then is the same to its agents and peers.
func TestStateSecret(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	if err := plane.Apply(t.Context(), stateManifest); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Kubectl(t.Context(), "", "patch", "pod", "gone", "-n", "mesh", "--subresource=status", "--type=merge", "-p",
		`{"status":{"phase":"Running","podIP":"10.200.0.9","podIPs":[{"ip":"10.200.0.9"}]}}`); err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid()
	east := &program{t: t, host: fmt.Sprintf("127.%d.%d.%d", 65+pid>>16&63, pid>>8&255, 1+pid&127)}
	east.args = []string{
		"--cluster-name=east", "--cluster-id=1", "--kubeconfig=" + plane.Kubeconfig(), "--state-secret=mesh/causeway-state", "--agent-service-account=mesh/node-agent",
		"--listen=" + east.host + ":8474", "--listen-http=" + east.host + ":9878", "--log-level=debug",
	}
	east.start()
	ready := func() bool {
		ok, _ := east.readyz()
		return ok
	}
	eventually(t, "east", ready)
	agent := enrol(t, plane, "mesh", east.dir)
	numbers := func() string {
		text, _ := os.ReadFile(filepath.Join(east.dir, "identities"))
		return string(text)
	}
	eventually(t, "an identity", func() bool { return strings.Contains(numbers(), "gone") })
	if _, err := plane.Kubectl(t.Context(), "", "delete", "pod", "gone", "-n", "mesh", "--force", "--grace-period=0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its rest", func() bool { return strings.Contains(numbers(), "freed") })
	gone := numbers()

	manifests := t.TempDir()
	if err := os.WriteFile(filepath.Join(manifests, "west.yaml"), []byte(westManifests), 0o600); err != nil {
		t.Fatal(err)
	}
	c := parse(t, "--cluster-name=west", "--cluster-id=2", "--data-dir="+t.TempDir(), "--manifests-dir="+manifests, "--listen=127.0.0.1:0", "--listen-http=")
	west := startRun(t, c)
	west.until("west", func(*adminpb.StatusResponse) bool { return true })
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	invite := func(peer string) string {
		answer, err := membership(t, east.dir).Invite(ctx, &joinpb.InviteRequest{Peer: peer})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetInvitation()
	}
	drain := func(steps grpc.ServerStreamingClient[joinpb.Step], err error) {
		t.Helper()
		for err == nil {
			_, err = steps.Recv()
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	drain(membership(t, c.dataDir).Accept(ctx, &joinpb.AcceptRequest{Invitation: invite("")}))
	kept := invite("west")
	synced := func(s *adminpb.StatusResponse) bool {
		for _, p := range s.GetPeers() {
			if p.GetName() == "east" {
				return p.GetState() == "synced"
			}
		}
		return false
	}
	west.until("east is read", synced)
	authority, err := os.ReadFile(filepath.Join(east.dir, "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	// The invitations were answered when they were kept, and the number beside them.
	old := east.dir
	east.kill()
	plane.KillAPIServer()
	east.start()
	eventually(t, "a reason to wait", func() bool {
		ok, text := east.readyz()
		return !ok && strings.Contains(text, "nothing begins before it is known what is kept: Secret mesh/causeway-state: "+plane.URL()+" cannot be reached")
	})
	if _, err := os.Stat(filepath.Join(east.dir, "pki")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an authority was made while it was not known whether there is one: %v", err)
	}
	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "east once more", ready)
	if now, err := os.ReadFile(filepath.Join(east.dir, "pki", "ca.crt")); err != nil || !bytes.Equal(now, authority) {
		t.Errorf("another authority: %v\n%s", err, now)
	}
	if now := numbers(); now != gone {
		t.Errorf("identities were\n%s\nand are\n%s", gone, now)
	}
	if err := accepted(t, east, agent); err != nil {
		t.Errorf("the agent of before: %v", err)
	}
	west.until("east is read again, and reads", func(s *adminpb.StatusResponse) bool {
		own, err := askStatus(ctx, filepath.Join(east.dir, "admin.yaml"))
		return err == nil && synced(s) && westOf(own).GetState() == "synced"
	})
	drain(membership(t, c.dataDir).Disconnect(ctx, &joinpb.DisconnectRequest{Peer: "east"}))
	drain(membership(t, c.dataDir).Accept(ctx, &joinpb.AcceptRequest{Invitation: kept}))
	west.until("east is read by the invitation of before", synced)

	// The container of the first pod begins once more, with its directory.
	second := &program{t: t, host: east.host, args: append(east.args, "--listen-http=")}
	second.startIn(old)
	if err := second.wait(); err == nil || !second.has("another API server has taken over") {
		t.Errorf("two API servers write: %v", err)
	}
	for _, key := range append(secretsOf(t, east.dir), secretsOf(t, old)...) {
		if east.has(key) || second.has(key) {
			t.Errorf("a private key was logged")
		}
	}
}

// TestStateFlag: what the flag may not say.
func TestStateFlag(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--kubeconfig=x --state-secret=mesh":                                          `"mesh" is not namespace/name`,
		"--manifests-dir=x --state-secret=mesh/a":                                     "only Kubernetes has Secrets",
		"--kubeconfig=x --state-secret=mesh/a --etcd-endpoints=http://localhost:2379": "is for one API server with its own etcd",
	} {
		all := append([]string{"--data-dir=x", "--manifests-dir="}, strings.Fields(args)...)
		if err := parse(t, all...).validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
