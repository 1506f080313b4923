package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/observe"
)

// TestDesk asks an agent for what it dropped, without any API server.
func TestDesk(t *testing.T) {
	dir, err := os.MkdirTemp("", "desk") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "observe.sock")
	old, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false) // as one leaves it that is killed
	_ = old.Close()
	registry := prometheus.NewRegistry()
	state := feed.OpenState(feed.StateConfig{Logger: logger(t), Registerer: registry})
	d := &desk{
		node: "n1", socket: socket, log: logger(t),
		server: observe.NewServer(observe.ServerConfig{Read: book{"east", state}.read, Logger: logger(t), Registerer: registry}),
	}
	agent := observe.NewAgent(observe.AgentConfig{Logger: logger(t), Registerer: registry})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- d.run(ctx, agent) }()
	noted := make(chan struct{})
	go func() {
		ended <- agent.Run(ctx, func(ctx context.Context, note func(observe.Event)) error {
			note(observe.Event{
				Time: time.Unix(1700000000, 0), Direction: observe.ToMesh, Reason: "destination",
				Source: netip.MustParseAddrPort("10.1.0.1:4711"), Destination: netip.MustParseAddrPort("10.2.0.9:80"), Identity: 2, Known: 2,
			})
			close(noted)
			<-ctx.Done()
			return nil
		})
	}()
	<-noted
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	drop := askDesk(ctx, t, adminpb.NewAdminClient(conn))
	if drop.Node != "n1" || drop.Reason != "destination" || drop.Source.Address != "10.1.0.1" || len(drop.IdentityLabels) != 1 {
		t.Errorf("%v", drop)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v: %v", info, err)
	}
	cancel()
	if err := errors.Join(<-ended, <-ended); err != nil {
		t.Error(err)
	}
}

// askDesk asks until it is told of a packet: the desk may not be open yet.
func askDesk(ctx context.Context, t *testing.T, client adminpb.AdminClient) *adminpb.Drop {
	t.Helper()
	for {
		stream, err := client.Observe(ctx, &adminpb.ObserveRequest{Last: 5}, grpc.WaitForReady(true))
		for err == nil {
			var m *adminpb.ObserveResponse
			if m, err = stream.Recv(); err == nil && m.GetDrop() != nil {
				return m.GetDrop()
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
}

// Where the socket cannot be, the agent goes on without.
func TestNoDesk(t *testing.T) {
	for name, socket := range map[string]string{"none": "", "no folder": filepath.Join(t.TempDir(), "gone", "observe.sock")} {
		d := &desk{socket: socket, log: logger(t)}
		if err := d.run(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, test := range []struct{ socket, dir, want string }{
		{"", "/state", "/state/observe.sock"}, {"", "", ""}, {"none", "/state", ""}, {"/run/x", "/state", "/run/x"},
	} {
		if got := (&config{observeSocket: test.socket, stateDir: test.dir}).socket(); got != test.want {
			t.Errorf("--observe-socket %q with --state-dir %q: %q, want %q", test.socket, test.dir, got, test.want)
		}
	}
}
