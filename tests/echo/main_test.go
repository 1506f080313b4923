package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := workload.Listen(workload.ServerConfig{Host: "127.0.0.1", TCP: []int{0}})
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addrs()[0].String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return address[strings.LastIndexByte(address, ':')+1:]
}

// start runs "echo serve" until the test ends and returns host:port; it is
// ready when start returns, as --ready-fd tells.
func start(t *testing.T) string {
	t.Helper()
	port := freePort(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	given, err := unix.Dup(int(write.Fd())) // serve closes what it is given
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	args := []string{
		"serve", "--pod", "web-0", "--cluster", "east", "--host", "127.0.0.1",
		"--tcp", port, "--udp", port, "--ready-fd", strconv.Itoa(given),
	}
	go func() { ended <- run(ctx, args, io.Discard, io.Discard) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = errors.Join(read.Close(), write.Close())
	})
	if _, err := read.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + port
}

func TestGet(t *testing.T) {
	target := start(t)
	for _, protocol := range []string{"tcp", "udp", "http", "mapped"} {
		var stdout, stderr bytes.Buffer
		err := run(t.Context(), []string{"get", "--protocol", protocol, "--count", "3", target, target}, &stdout, &stderr)
		if err != nil || stderr.Len() > 0 {
			t.Errorf("%s: %v, %s", protocol, err, &stderr)
		}
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		if len(lines) != 6 {
			t.Errorf("%s: %d lines, want 3 for each target", protocol, len(lines))
		}
		for _, line := range lines {
			var r workload.Result
			if err := json.Unmarshal([]byte(line), &r); err != nil || r.Pod != "web-0" {
				t.Errorf("%s: %s (%v)", protocol, line, err)
			}
		}
	}
}

func TestGetBytes(t *testing.T) {
	var stdout bytes.Buffer
	if err := run(t.Context(), []string{"get", "--protocol", "tcp", "--bytes", "100000", start(t)}, &stdout, io.Discard); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stdout.String(), `"bytes":100000`) {
		t.Errorf("got %s", &stdout)
	}
}

func TestGetFails(t *testing.T) {
	var stdout bytes.Buffer
	err := run(t.Context(), []string{"get", "127.0.0.1:" + freePort(t)}, &stdout, io.Discard)
	if !errors.Is(err, errFailed) || !strings.Contains(stdout.String(), "connection refused") {
		t.Errorf("got %v, %s", err, &stdout)
	}
}

func TestFirst(t *testing.T) {
	var stdout bytes.Buffer
	if err := run(t.Context(), []string{"first", "--cluster", "east", start(t)}, &stdout, io.Discard); err != nil {
		t.Fatal(err)
	}
	var f workload.First
	if err := json.Unmarshal(stdout.Bytes(), &f); err != nil || f.Pod != "web-0" || f.At.IsZero() {
		t.Errorf("got %s (%v)", &stdout, err)
	}
}

func TestLoad(t *testing.T) {
	var stdout bytes.Buffer
	args := []string{"load", "--rate", "500", "--long", "2", "--duration", "100ms", "--interval", "20ms", start(t)}
	if err := run(t.Context(), args, &stdout, io.Discard); err != nil {
		t.Fatal(err)
	}
	var last workload.Report
	lines := json.NewDecoder(&stdout)
	for lines.More() {
		if err := lines.Decode(&last); err != nil {
			t.Fatal(err)
		}
	}
	if !last.Last || last.New.OK == 0 || last.Long.OK == 0 || last.New.Failed+last.Long.Failed > 0 {
		t.Errorf("last report %+v", last)
	}
}

func TestLoadFails(t *testing.T) {
	args := []string{"load", "--rate", "500", "--duration", "50ms", "127.0.0.1:" + freePort(t)}
	if err := run(t.Context(), args, io.Discard, io.Discard); !errors.Is(err, errFailed) {
		t.Errorf("got %v", err)
	}
	if err := run(t.Context(), []string{"load", "--rate", "-1", "host:1"}, io.Discard, io.Discard); err == nil {
		t.Error("a negative rate is taken")
	}
}

func TestUsage(t *testing.T) {
	tests := []struct {
		args []string
		want error
		say  string
	}{
		{nil, errUsage, "usage: echo serve|get|first|load"},
		{[]string{"sing"}, errUsage, "usage: echo serve|get|first|load"},
		{[]string{"get"}, errUsage, "takes 1 to 10000 arguments"},
		{[]string{"load", "a:1", "b:2"}, errUsage, "takes 1 to 1 arguments"},
		{[]string{"serve", "stray"}, errUsage, "takes 0 to 0 arguments"},
		{[]string{"serve", "--tcp", "http"}, errUsage, `port "http" is not a number`},
		{[]string{"serve", "--tcp", "80,65536"}, errUsage, `port "65536" is not a number`},
		{[]string{"load", "--nothing", "a:1"}, errUsage, "not defined"},
		{[]string{"load", "--help"}, flag.ErrHelp, "new connections a second"},
	}
	for _, test := range tests {
		var stderr bytes.Buffer
		err := run(t.Context(), test.args, io.Discard, &stderr)
		if !errors.Is(err, test.want) || !strings.Contains(stderr.String(), test.say) {
			t.Errorf("%q: %v, %s", test.args, err, &stderr)
		}
	}
}

func TestServePortInUse(t *testing.T) {
	target := start(t)
	port := target[strings.LastIndexByte(target, ':')+1:]
	err := run(t.Context(), []string{"serve", "--host", "127.0.0.1", "--tcp", port}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "listen on tcp port "+port) {
		t.Errorf("got %v", err)
	}
}
