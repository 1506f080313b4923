package kubelab

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// space returns a network of its own. It goes with the test.
func space(t *testing.T) *netspace.Space {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root: network namespaces")
		}
		t.Skip("needs root: network namespaces")
	}
	path := filepath.Join(t.TempDir(), "net")
	s, err := netspace.New(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		if err := netspace.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dialIn(t *testing.T, s *netspace.Space, address string) net.Conn {
	t.Helper()
	var c net.Conn
	err := s.Do(func() (err error) {
		c, err = net.Dial("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestForward: bytes go both ways; a server that is away ends the connection, and
// so does closing.
func TestForward(t *testing.T) {
	t.Parallel()
	inside := space(t)
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	f, err := forward(inside, server.Addr().String(), server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	client := dialIn(t, inside, server.Addr().String())
	far, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	exchange(t, client, far, "there")
	exchange(t, far, client, "back")

	_ = server.Close()
	orphan := dialIn(t, inside, server.Addr().String())
	if _, err := orphan.Read(make([]byte, 1)); err == nil {
		t.Error("somebody answers for a server that is away")
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the forwarder")
	}
}

func exchange(t *testing.T, from, to net.Conn, text string) {
	t.Helper()
	if _, err := from.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if err := to.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("%q arrived as %q: %v", text, got, err)
	}
}
