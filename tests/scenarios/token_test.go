package scenarios

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// beginner is a node whose agent has no certificate.
type beginner struct {
	t     *testing.T
	east  *lab.Cluster
	node  *lab.Node
	token string // the file
	files pki.ClientFiles
}

func newBeginner(ctx context.Context, t *testing.T, extra ...string) *beginner {
	t.Helper()
	labtest.RequireRoot(t)
	w := newWorld(t, t.TempDir())
	east := labtest.AddCluster(t, w.lab, "east", 1, "testdata/clusters/east.yaml")
	_, err := east.StartAPIServer(ctx, extra...)
	check(t, err, east.AwaitReady(ctx))
	b := &beginner{t: t, east: east, node: east.Nodes()[0], token: filepath.Join(t.TempDir(), "token"), files: beginning(t)}
	return b
}

// beginning are files that are not there, in a folder that is not there.
func beginning(t *testing.T) pki.ClientFiles {
	dir := filepath.Join(t.TempDir(), "agent")
	return pki.ClientFiles{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "agent.crt"), KeyFile: filepath.Join(dir, "agent.key")}
}

// flags are those of an agent with the files.
func (b *beginner) flags(files pki.ClientFiles) []string {
	return []string{"--ca-file", files.CAFile, "--cert-file", files.CertFile, "--key-file", files.KeyFile, "--join-token-file", b.token}
}

// newToken has the command line make one, and puts it on the node.
func (b *beginner) newToken(ctx context.Context) {
	b.t.Helper()
	out, err := b.east.Causeway(ctx, "agent", "token", b.node.Name)
	check(b.t, err)
	if !regexp.MustCompile(`^causeway-agent-token-1\.[\w-]+\n$`).Match(out) {
		b.t.Fatalf("not one line: %s", out)
	}
	check(b.t, os.WriteFile(b.token, out, 0o600))
}

// TestAgentToken: an agent with nothing but a token begins, and goes on without it;
// nobody else begins with the same one.
func TestAgentToken(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	b := newBeginner(ctx, t)

	b.newToken(ctx)
	agent, err := b.node.StartAgent(ctx, b.flags(b.files)...)
	check(t, err, b.east.AwaitReady(ctx))
	check(t, eventually(ctx, func() error {
		out, err := b.east.Causeway(ctx, "status")
		if !regexp.MustCompile(`certificates +.*that of agent ` + b.node.Name + `, ends in 6 days`).Match(out) {
			return fmt.Errorf("no word of the certificate: %w\n%s", err, out)
		}
		return nil
	}))
	if n := metricOf(ctx, t, b.east.APIServer(), "causeway_token_enrolments_total"); n != 1 {
		t.Errorf("%.0f enrolments are counted", n)
	}
	for path, mode := range map[string]os.FileMode{b.files.KeyFile: 0o600, b.files.CertFile: 0o644, b.files.CAFile: 0o644} {
		info, err := os.Stat(path)
		check(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
	}

	stolen := b.flags(beginning(t))
	args := append([]string{"--node-name", b.node.Name, "--cluster-name", "east", "--api-server", "127.0.0.1:1"}, stolen...)
	_, err = b.node.Run(ctx, filepath.Join(labtest.Binaries(t), "node-agent"), args...)
	if err == nil || !strings.Contains(err.Error(), "the token was used already, by another key") {
		t.Errorf("another one with the same token: %v", err)
	}
	list, err := b.east.Causeway(ctx, "agent", "token", "--list")
	check(t, err)
	if !regexp.MustCompile(b.node.Name + ` +\S+ ago +used \S+ ago\n$`).Match(list) {
		t.Errorf("listed:\n%s", list)
	}

	check(t, agent.Stop(ctx), os.Remove(b.token), agent.Again(ctx), b.east.AwaitReady(ctx))
}

// TestAgentTooLate: an agent whose certificate ended while its API server was away
// says that a token is the way back, which it is, for one that runs, too. A certificate lasts 15 s here, so
// that it is renewed in time also on a machine that is busy.
func TestAgentTooLate(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	b := newBeginner(ctx, t, "--agent-certificate-ttl", "15s")
	b.newToken(ctx)
	agent, err := b.node.StartAgent(ctx, b.flags(b.files)...)
	check(t, err, b.east.AwaitReady(ctx), b.east.APIServer().Kill())
	check(t, eventually(ctx, func() error {
		cert, err := b.files.Certificate()
		if err == nil && time.Now().Before(cert.NotAfter) {
			err = fmt.Errorf("the certificate is good until %s", cert.NotAfter)
		}
		return err
	}))
	args := []string{
		"--node-name", b.node.Name, "--cluster-name", "east", "--api-server", "127.0.0.1:1",
		"--ca-file", b.files.CAFile, "--cert-file", b.files.CertFile, "--key-file", b.files.KeyFile,
	}
	_, err = b.node.Run(ctx, filepath.Join(labtest.Binaries(t), "node-agent"), args...)
	if err == nil || !strings.Contains(err.Error(), "certificate expired") || !strings.Contains(err.Error(), "causeway agent token "+b.node.Name) {
		t.Errorf("without a token: %v", err)
	}

	api := b.east.APIServer()
	check(t, api.Again(ctx), api.AwaitHTTP(ctx, "http://127.0.0.1:9474/healthz"))
	check(t, eventually(ctx, func() error {
		_, err := b.east.Causeway(ctx, "agent", "token", "--list")
		return err
	}))
	text, err := os.ReadFile(agent.LogPath())
	check(t, err)
	b.newToken(ctx)
	check(t, eventually(ctx, func() error {
		now, err := os.ReadFile(agent.LogPath())
		if err == nil && !strings.Contains(string(now[len(text):]), "certificate for the token is here") {
			err = fmt.Errorf("the agent that runs takes no new certificate:\n%s", now)
		}
		return err
	}), b.east.AwaitReady(ctx))
	if err := b.files.CheckSubject(pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: b.node.Name}); err != nil {
		t.Error(err)
	}
}
