// demo shows, in one minute and on one machine, what Causeway is for: a service
// that two clusters have is answered by both, through eBPF. It checks what it
// shows: any difference ends it with exit status 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// limit bounds the whole, building included.
const limit = 15 * time.Minute

func main() {
	keep := flag.Bool("keep", false, "leave the clusters up and say how to look around")
	down := flag.String("down", "", "take down what an earlier demo left up, by its id, and do nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	var err error
	if *down != "" {
		err = lab.Remove(ctx, *down)
	} else {
		err = run(ctx, *keep)
	}
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool) (err error) {
	show := &screen{out: os.Stdout}
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		show.width = width
	}
	show.title("Causeway: one service, two clusters")
	show.line("building; the first time takes minutes")
	root, err := repository()
	if err != nil {
		return err
	}
	binaries, err := lab.Build(ctx, lab.BuildConfig{})
	if err != nil {
		return err
	}
	began := time.Now()
	mesh, err := lab.New(ctx, lab.Config{Binaries: binaries, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	kept := false
	defer func() {
		if err != nil {
			showLogs(mesh)
		}
		if !kept {
			err = errors.Join(err, mesh.Close())
		}
	}()
	d := &demo{screen: show, lab: mesh, dumps: filepath.Join(root, "tests/testdata/dumps")}
	if err := d.all(ctx); err != nil {
		return err
	}
	show.line("all of it was as it should be, in %.0f s", time.Since(began).Seconds())
	if keep {
		d.lookAround(binaries)
		kept = true
		return mesh.Keep()
	}
	return nil
}

// showLogs prints the ends of the daemons' logs: the place to look when a step
// went wrong.
func showLogs(mesh *lab.Lab) {
	for _, c := range mesh.Clusters() {
		for _, p := range c.Daemons() {
			fmt.Fprintf(os.Stderr, "\n--- %s\n%s", p.Name(), p.Tail())
		}
	}
}

// repository returns the folder of go.mod, from which dumps are read.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("run the demo inside the repository: make demo")
		}
		dir = parent
	}
}
