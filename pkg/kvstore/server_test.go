package kvstore

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// clusterID reads what readers know the store by.
func clusterID(t *testing.T, c *Client) uint64 {
	t.Helper()
	resp, err := c.kv.Range(testContext(t), &pb.RangeRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.ClusterId
}

func TestServerKeepsItsDataAndItsIdentity(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	put(t, c, "k", "v")
	before := clusterID(t, c)
	s.Stop()

	c = s.Start()
	if value, found, err := c.Get(testContext(t), "k"); err != nil || !found || string(value) != "v" {
		t.Errorf("after a restart: %q, %v, %v", value, found, err)
	}
	if after := clusterID(t, c); after != before {
		t.Errorf("after a restart: cluster id %x, was %x", after, before)
	}

	s.Wipe()
	if after := clusterID(t, s.Start()); after == before {
		t.Errorf("a wiped store has the cluster id %x of the one before it", after)
	}
}

func TestDataWithoutALogIsSetAside(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	put(t, c, "k", "v")
	before := clusterID(t, c)
	s.Stop()
	// What a first start leaves that was killed between database and log.
	if err := os.RemoveAll(filepath.Join(s.dir, "member", "wal")); err != nil {
		t.Fatal(err)
	}
	c = s.Start()
	if got := contents(t, c, ""); len(got) != 0 {
		t.Errorf("a store without a log has %v", got)
	}
	if after := clusterID(t, c); after == before {
		t.Errorf("it has the cluster id %x of the one before it", after)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "member.incomplete", "snap", "db")); err != nil {
		t.Errorf("the old data is gone: %v", err)
	}
}

func TestTokenStaysWithTheData(t *testing.T) {
	dir := &dataDir{path: t.TempDir()}
	first, err := dir.token()
	if err != nil {
		t.Fatal(err)
	}
	again, err := dir.token()
	if err != nil || again != first {
		t.Errorf("second reading: %q, %v; first %q", again, err, first)
	}
	if other, err := (&dataDir{path: t.TempDir()}).token(); err != nil || other == first {
		t.Errorf("another directory has the token %q, %v", other, err)
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	second := NewServer(ServerConfig{Dir: s.dir, Logger: testLog(t)})
	err := second.Run(testContext(t))
	if !errors.Is(err, ErrDirInUse) || !strings.Contains(err.Error(), s.dir) {
		t.Errorf("Run of a second server: %v", err)
	}
	if _, err := second.Dial(testContext(t)); !errors.Is(err, ErrStopped) {
		t.Errorf("Dial of a server that was refused: %v", err)
	}
	put(t, c, "k", "the first one goes on")
}

func TestServerStopsAtOnce(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
	r.waitComplete(t, 1)
	begun := time.Now()
	s.Stop()
	if took := time.Since(begun); took > patience/3 { // to wait for the watch takes for ever
		t.Errorf("stopping with a watch open took %s", took)
	}
}

func TestServerRunsOnce(t *testing.T) {
	s := NewServer(ServerConfig{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run with an ended context: %v", err)
	}
	if err := s.Run(ctx); err == nil {
		t.Error("Run runs twice")
	}
	if _, err := s.Dial(testContext(t)); !errors.Is(err, ErrStopped) {
		t.Errorf("Dial: %v", err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewServer(ServerConfig{Dir: t.TempDir()}).Dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
}

func TestServerInADeepDirectory(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.dir = filepath.Join(s.dir, strings.Repeat("d", 100), strings.Repeat("e", 100))
	c := s.Start()
	put(t, c, "k", "v")
	s.Stop()
	put(t, s.Start(), "k", "v")
}

func TestServerNamesADirectoryThatItCannotUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := NewServer(ServerConfig{Dir: filepath.Join(file, "etcd")}).Run(testContext(t))
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("Run: %v", err)
	}
}

func TestDataIsNobodyElsesToRead(t *testing.T) {
	t.Parallel()
	s, _ := startStore(t)
	for _, name := range []string{"", "member", "member/token", "etcd.sock", "lock"} {
		info, err := os.Stat(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q has mode %s", name, info.Mode())
		}
	}
}

func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+s.dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := -1
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if last, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if last == 300 {
				if err := cmd.Process.Kill(); err != nil { // and read on what it still said
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || last < 300 {
			t.Fatalf("child ended with %v after key %d", err, last)
		}

		c := s.Start()
		got := contents(t, c, "child/")
		for i := range last + 1 {
			if _, ok := got["child/"+strconv.Itoa(i)]; !ok {
				t.Errorf("acknowledged key %d of %d is lost", i, last)
			}
		}
		s.Stop()
	}
}
