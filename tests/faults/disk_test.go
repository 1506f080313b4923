package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// diskScript mounts a small file system until it is told nothing more, also
// because the test was killed.
const diskScript = `
mkdir -p "$1" && mount -t tmpfs -o size=$2,mode=0700 causeway-faults "$1" || exit 1
echo ready
read -r word
umount -l "$1"
`

// disk is a file system with a limited size.
type disk struct {
	w   *world
	dir string
}

// newDisk puts one at a folder that is still empty.
func (w *world) newDisk(dir, size string) *disk {
	w.t.Helper()
	cmd := exec.Command("sh", "-c", diskScript, "disk", dir, size)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what ends the test at a terminal is not for it
	cmd.Stderr = w.t.Output()
	words, err := cmd.StdinPipe()
	w.check(err)
	answers, err := cmd.StdoutPipe()
	w.check(err, cmd.Start())
	w.t.Cleanup(func() {
		_ = words.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(answers).ReadString('\n'); err != nil || line != "ready\n" {
		w.t.Fatalf("mount a tmpfs: %q, %v", line, err)
	}
	return &disk{w, dir}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes all the room that there is.
func (d *disk) fill() {
	d.w.t.Helper()
	file, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	d.w.check(err)
	for block := make([]byte, 1<<20); len(block) > 0; {
		if n, err := file.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:(len(block)-n)/2]
		} else if err != nil {
			d.w.t.Fatal(err)
		}
	}
	d.w.check(file.Close())
}

func (d *disk) free() {
	d.w.t.Helper()
	d.w.check(os.Remove(d.ballast()))
}

// TestFullDisk takes the room from east's API server, and from its agent's state.
// etcd ends the process when it cannot write, as nothing that it says could be
// relied upon; whoever runs it starts it again, here the test. Nothing is lost.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "east", "west")
	node := w.east.Nodes()[0]
	w.check(os.RemoveAll(w.east.DataDir())) // Connect made it, with the authority
	data, state := w.newDisk(w.east.DataDir(), "192m"), w.newDisk(node.StateDir(), "2m")
	w.check(w.west.Connect(w.east)) // whose authority is another now
	w.up()
	w.answers(w.east, w.clusters()...)
	before := w.identities()
	l := w.load()

	state.fill()
	for n := range 4 { // more than fits into the last block of the file
		w.knows(w.west, w.service(w.east, 140+n), true)
	}
	w.logs(node.Agent(), "the state is not on disk")
	w.answers(w.east, w.clusters()...)
	state.free()
	w.logs(node.Agent(), "the state is on disk again")

	data.fill()
	api := w.east.APIServer()
	w.eventually("the end of east's API server", func(context.Context) error {
		w.large(w.east)
		if api.Running() {
			return errors.New("it still runs")
		}
		return nil
	})
	w.logs(api, "no space left on device")
	w.answers(w.east, w.clusters()...)
	_ = api.Again(within(t)) // on the full disk
	l.served(200)

	data.free()
	w.eventually("a start of east's API server", func(ctx context.Context) error {
		if err := api.Again(ctx); err != nil && !errors.Is(err, lab.ErrRunning) {
			return err
		}
		return w.east.AwaitReady(ctx)
	})
	w.ready(w.clusters()...)
	w.knows(w.west, w.service(w.east, 149), true)
	w.answers(w.west, w.clusters()...)
	for n, labels := range before {
		if after := w.identities(); after[n] != labels {
			t.Errorf("identity %s was %q and is %q", n, labels, after[n])
		}
	}
	l.unharmed()
}

// large makes etcd's database grow, as long as it can.
func (w *world) large(c *lab.Cluster) {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
	defer cancel()
	_, _ = w.etcd(c).Put(ctx, "large", strings.Repeat("x", 1<<20))
}

// logs waits until a process has said something.
func (w *world) logs(p *lab.Process, text string) {
	w.t.Helper()
	w.eventually("log of "+p.Name(), func(context.Context) error {
		log, err := os.ReadFile(p.LogPath())
		if err == nil && !strings.Contains(string(log), text) {
			err = fmt.Errorf("%q is not in it:\n%s", text, p.Tail())
		}
		return err
	})
}

// TestQuota uses up the quota of west's etcd by keys, which no compaction makes
// fewer. East hears of what goes, and of what is new as soon as there is room.
func TestQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "east", "west")
	w.up("--etcd-quota-bytes=16777216")
	w.answers(w.east, w.clusters()...)
	old := w.service(w.west, 150)
	w.knows(w.east, old, true)
	l := w.load()

	etcd := w.etcd(w.west)
	n := 0
	w.eventually("keys that are too many", func(ctx context.Context) error {
		var err error
		for err == nil {
			n++
			_, err = etcd.Put(ctx, fmt.Sprint("fill/", n), strings.Repeat("x", 512<<10))
		}
		if log, _ := os.ReadFile(w.west.APIServer().LogPath()); !strings.Contains(string(log), "give it a larger quota") {
			return fmt.Errorf("dropping history still makes room: %w", err)
		}
		return nil
	})
	w.check(w.west.RemoveManifest(old + ".yaml"))
	next := w.service(w.west, 151)
	w.status(w.west, "publishing +not ready: .*out of quota", "^Not ready: ")
	w.knows(w.east, old, false)
	w.knows(w.west, next, true)
	w.knows(w.east, next, false)
	w.answers(w.east, w.clusters()...)

	_, err := etcd.Delete(within(t), "fill/", clientv3.WithPrefix())
	w.check(err)
	w.knows(w.east, next, true)
	w.ready(w.clusters()...)
	l.unharmed()
}
