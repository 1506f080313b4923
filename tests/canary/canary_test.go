package canary

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// mesh is two clusters, of which one joined by invitation and each has an agent that
// began by token; and all that they said.
type mesh struct {
	t          *testing.T
	east, west *lab.Cluster
	secrets    secrets
	said       map[string][]byte
	certs      string
}

// TestNothingIsSaid has a mesh say all that it can.
func TestNothingIsSaid(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	l := labtest.New(t)
	m := &mesh{t: t, secrets: secrets{}, said: map[string][]byte{}, certs: t.TempDir()}
	m.east = labtest.AddCluster(t, l, "east", 1, "../scenarios/testdata/clusters/east.yaml")
	m.west = labtest.AddCluster(t, l, "west", 2, "../scenarios/testdata/clusters/west.yaml")
	for _, c := range []*lab.Cluster{m.east, m.west} {
		_, err := c.StartAPIServer(ctx, "--log-level", "debug", "--pprof")
		check(t, err, c.AwaitReady(ctx))
		m.begin(ctx, c)
	}
	m.join(ctx)
	for _, c := range []*lab.Cluster{m.east, m.west} {
		check(t, c.AwaitReady(ctx))
		m.ask(ctx, c)
	}
	m.withoutEtcd(ctx)
	m.breakOff(ctx)
	m.collectKeys()
	for name, text := range m.said {
		if len(text) == 0 {
			t.Errorf("%s said nothing", name)
		}
		if found := m.secrets.scan(text); len(found) > 0 {
			t.Errorf("%s shows %q", name, found)
		}
	}
	m.selfCheck()
}

// begin has a cluster's agent begin by a token, and shows that token once more.
func (m *mesh) begin(ctx context.Context, c *lab.Cluster) {
	m.t.Helper()
	node := c.Nodes()[0]
	line, err := c.Causeway(ctx, "agent", "token", node.Name)
	check(m.t, err)
	pass, err := stranger.ParseToken(string(line))
	check(m.t, err)
	m.secrets.add(c.Name+"'s token", pass.Secret[:])
	token := filepath.Join(m.certs, c.Name+".token")
	check(m.t, os.WriteFile(token, line, 0o600))
	flags := func(dir string) []string {
		files := filepath.Join(m.certs, c.Name, dir)
		return []string{"--ca-file", files + ".ca", "--cert-file", files + ".crt", "--key-file", files + ".key", "--join-token-file", token}
	}
	_, err = node.StartAgent(ctx, append(flags("agent"), "--log-level", "debug", "--pprof")...)
	check(m.t, err, c.AwaitReady(ctx))

	args := append([]string{"--node-name", node.Name, "--cluster-name", c.Name, "--api-server", "127.0.0.1:1", "--log-level", "debug"}, flags("second")...)
	_, err = node.Run(ctx, filepath.Join(labtest.Binaries(m.t), "node-agent"), args...)
	m.fails(c.Name+": a token of another", err, "used already")
	check(m.t, os.WriteFile(token, line[:len(line)-4], 0o600))
	_, err = node.Run(ctx, filepath.Join(labtest.Binaries(m.t), "node-agent"), args...)
	m.fails(c.Name+": a token cut off", err, "changed or cut off")
}

// fails keeps what an error says.
func (m *mesh) fails(name string, err error, want string) {
	m.t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		m.t.Errorf("%s: %v, want an error with %q", name, err, want)
		return
	}
	m.said[name] = []byte(err.Error())
}

// join has west join east, and tries what must fail.
func (m *mesh) join(ctx context.Context) {
	m.t.Helper()
	line, err := m.east.Causeway(ctx, "invite")
	check(m.t, err)
	text := strings.TrimSpace(string(line))
	inv, err := join.ParseInvitation(text)
	check(m.t, err)
	m.secrets.add("the invitation", inv.Secret[:])
	steps, err := m.west.Causeway(ctx, "join", text)
	check(m.t, err)
	m.said["join"] = steps
	again, err := m.west.Causeway(ctx, "join", text, "--output", "json")
	check(m.t, err)
	m.said["join again"] = again
	_, err = m.west.Causeway(ctx, "join", text[:len(text)-4])
	m.fails("join by what was cut off", err, "changed or cut off")
	_, err = m.east.Causeway(ctx, "join", text)
	m.fails("join by one's own", err, "from cluster east, as this cluster is called itself")
	altered := inv
	altered.Secret[0] ^= 0xff
	m.secrets.add("the altered invitation", altered.Secret[:])
	altered.Cluster = "east"
	_, err = m.west.Causeway(ctx, "disconnect", "east")
	check(m.t, err)
	_, err = m.west.Causeway(ctx, "join", altered.Text())
	m.fails("join by what was altered", err, "no such invitation")
	second, err := m.east.Causeway(ctx, "invite", "--peer", "west")
	check(m.t, err)
	inv, err = join.ParseInvitation(string(second))
	check(m.t, err)
	m.secrets.add("the second invitation", inv.Secret[:])
	_, err = m.west.Causeway(ctx, "join", strings.TrimSpace(string(second)))
	check(m.t, err)
}

// ask keeps all that the command line and the status servers show.
func (m *mesh) ask(ctx context.Context, c *lab.Cluster) {
	m.t.Helper()
	for _, args := range [][]string{
		{"status"}, {"status", "--addresses"}, {"services"}, {"peers"}, {"diagnose"}, {"observe", "--last", "5"}, {"invite", "--list"}, {"agent", "token", "--list"},
	} {
		for _, output := range []string{"table", "json"} {
			// What is not ready, or has nothing to show, is no matter here.
			out, err := c.Causeway(ctx, append(args, "--output", output)...)
			m.said[fmt.Sprint(c.Name, ": causeway ", args, " ", output)] = fmt.Appendf(out, "\n%v", err)
		}
	}
	for _, p := range c.Daemons() {
		address := "127.0.0.1:9475"
		if p == c.APIServer() {
			address = "127.0.0.1:9474"
		}
		for _, path := range []string{"/metrics", "/healthz", "/readyz", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline"} {
			m.said[p.Name()+" "+path] = m.fetch(ctx, c.Nodes()[0], "http://"+address+path)
		}
	}
}

func (m *mesh) fetch(ctx context.Context, node *lab.Node, url string) []byte {
	m.t.Helper()
	text, err := m.get(ctx, node, url)
	check(m.t, err)
	return text
}

func (m *mesh) get(ctx context.Context, node *lab.Node, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := node.HTTPClient().Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	return io.ReadAll(response.Body)
}

// withoutEtcd starts an API server whose etcd is not there, and breaks it off.
func (m *mesh) withoutEtcd(ctx context.Context) {
	m.t.Helper()
	dir := m.t.TempDir()
	authority, err := pki.OpenAuthority(filepath.Join(dir, "pki"), "etcd")
	check(m.t, err)
	pair, err := authority.Issue(pki.Request{Role: pki.RoleAgent, Name: "apiserver", TTL: 24 * patience})
	check(m.t, err, pair.Save(filepath.Join(m.certs, "etcd.crt"), filepath.Join(m.certs, "etcd.key")))
	p, err := m.east.Nodes()[0].Start(ctx, lab.Command{
		Name: "without-etcd", Path: filepath.Join(labtest.Binaries(m.t), "clustermesh-apiserver"), Args: []string{
			"--cluster-name", "east", "--cluster-id", "1", "--data-dir", m.t.TempDir(), "--manifests-dir", m.t.TempDir(), "--listen", "127.0.0.1:8999", "--listen-http", "127.0.0.1:8998",
			"--etcd-endpoints", "https://127.0.0.1:1", "--etcd-ca-file", authority.CertFile(),
			"--etcd-cert-file", filepath.Join(m.certs, "etcd.crt"), "--etcd-key-file", filepath.Join(m.certs, "etcd.key"), "--log-level", "debug", "--log-format", "text",
		},
	})
	check(m.t, err)
	eventually(m.t, func() error {
		text, err := m.get(ctx, m.east.Nodes()[0], "http://127.0.0.1:8998/readyz")
		if err == nil && !bytes.Contains(text, []byte("etcd: not ready")) {
			err = fmt.Errorf("it says nothing of its etcd: %s", text)
		}
		m.said["ready without etcd"] = text
		return err
	})
	m.quit(ctx, p)
}

// breakOff ends the API servers so that they show all stacks, and the agents when
// they have noticed.
func (m *mesh) breakOff(ctx context.Context) {
	m.t.Helper()
	for _, c := range []*lab.Cluster{m.east, m.west} {
		m.quit(ctx, c.APIServer())
		agent := c.Nodes()[0].Agent()
		eventually(m.t, func() error {
			if text := agent.Tail(); !strings.Contains(text, "connection refused") {
				return fmt.Errorf("the agent says nothing of its API server:\n%s", text)
			}
			return nil
		})
		m.quit(ctx, agent)
	}
}

// quit breaks a process off, as a panic does, and keeps all that it said.
func (m *mesh) quit(ctx context.Context, p *lab.Process) {
	m.t.Helper()
	check(m.t, syscall.Kill(p.PID(), syscall.SIGQUIT))
	_ = p.Wait(ctx) // it ends with an error
	text, err := os.ReadFile(p.LogPath())
	check(m.t, err)
	if !bytes.Contains(text, []byte("SIGQUIT: quit")) || !bytes.Contains(text, []byte("goroutine ")) {
		m.t.Errorf("%s shows no stacks", p.Name())
	}
	m.said[p.Name()+"'s log"] = text
}

// block is a private key in a file, as it is or inside of JSON or YAML.
var block = regexp.MustCompile(`-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----`)

// collectKeys adds every private key that the mesh wrote.
func (m *mesh) collectKeys() {
	m.t.Helper()
	kinds := map[string]int{}
	for _, root := range []string{m.east.DataDir(), m.west.DataDir(), m.certs} {
		check(m.t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || strings.Contains(path, "/etcd/") {
				return err
			}
			text, err := os.ReadFile(path)
			for i, found := range block.FindAllString(strings.ReplaceAll(string(text), `\n`, "\n"), -1) {
				lines := strings.Split(found, "\n")
				for i := range lines {
					lines[i] = strings.TrimSpace(lines[i]) // as YAML indents it
				}
				if decoded, _ := pem.Decode([]byte(strings.Join(lines, "\n") + "\n")); decoded != nil {
					m.addKey(fmt.Sprint(path, " ", i), decoded.Bytes)
					kinds[strings.TrimPrefix(path, root)]++
				}
			}
			return err
		}))
	}
	for _, want := range []string{
		"/pki/ca.key", "/pki/peer.pem", "/pki/agent.pem", "/pki/admin.pem", "/admin.yaml", "/joined/east.key", "/joined/west.key",
		"/east/agent.key", "/west/agent.key", "/etcd.key",
	} {
		if kinds[want] == 0 {
			m.t.Errorf("no key of %s is known: %v", want, kinds)
		}
	}
}

func (m *mesh) addKey(name string, der []byte) {
	m.t.Helper()
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	check(m.t, err)
	if key, ok := parsed.(*ecdsa.PrivateKey); ok {
		m.secrets[name], err = keyForms(key)
		check(m.t, err)
	}
}

// selfCheck plants each secret in a log and looks for it.
func (m *mesh) selfCheck() {
	m.t.Helper()
	log := m.said[m.east.APIServer().Name()+"'s log"]
	log = log[:min(len(log), 4096)]
	for name, all := range m.secrets {
		for form, text := range all {
			planted := append(append(bytes.Clone(log), text...), log...)
			if len(m.secrets.scan(planted)) == 0 {
				m.t.Errorf("%s as %s is not found when it is there", name, form)
			}
		}
	}
}
