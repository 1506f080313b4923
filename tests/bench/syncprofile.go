package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// profile begins to take profiles of the API server and the agent, if they are
// asked for; the function that it returns ends that. They cost what they
// measure some percent.
func (b *syncBench) profile(ctx context.Context, w *world) (done func()) {
	if b.config.Profiles == "" {
		return func() {}
	}
	var all sync.WaitGroup
	for _, p := range []struct {
		name, status string
		node         *lab.Node
	}{{"apiserver", "127.0.0.1:9474", w.here.Nodes()[0]}, {"agent", "127.0.0.1:9475", w.worker}} {
		all.Go(func() {
			name := filepath.Join(b.config.Profiles, fmt.Sprintf("%s-%s-%d", b.row, p.name, time.Now().Unix()))
			client := p.node.HTTPClient()
			for _, page := range []string{"profile?seconds=20", "heap?gc=1"} {
				err := download(ctx, client, "http://"+p.status+"/debug/pprof/"+page, name+"-"+page[:4])
				if err != nil {
					step(b.out, "no profile of the %s: %v", p.name, err)
				}
			}
		})
	}
	return all.Wait
}

func download(ctx context.Context, client *http.Client, url, name string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	for errors.Is(err, syscall.ECONNREFUSED) && sleep(ctx, lookEvery) == nil { // it has just been started
		response, err = client.Do(request)
	}
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, response.Body)
	return errors.Join(err, file.Close())
}
