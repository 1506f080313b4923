package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// rotating is a cluster whose authority is replaced under traffic, and one that
// reads it.
type rotating struct {
	t          *testing.T
	east, west *lab.Cluster
	loads      []*lab.Load
}

func newRotating(ctx context.Context, t *testing.T) *rotating {
	t.Helper()
	w := newWorld(t, t.TempDir())
	r := &rotating{t: t}
	r.east = labtest.AddCluster(t, w.lab, "east", 1, "testdata/clusters/east.yaml")
	r.west = labtest.AddCluster(t, w.lab, "west", 2, "testdata/clusters/west.yaml")
	check(t, w.lab.ConnectAll(), w.lab.Up(ctx))
	for _, name := range []string{"east/client", "west/client"} {
		pod, err := w.pod(name)
		check(t, err)
		load, err := pod.StartLoad(ctx, workload.LoadConfig{Target: web, Protocol: workload.HTTP, Rate: 50, Long: 10})
		check(t, err)
		r.loads = append(r.loads, load)
		_, err = load.Await(ctx, func(report workload.Report) bool { return report.New.OK > 0 && report.Long.OK > 0 })
		check(t, err)
	}
	return r
}

func (r *rotating) status(ctx context.Context) (*rotationpb.StatusResponse, error) {
	return rotationOf(ctx, r.east)
}

// rotationOf returns how it stands with a cluster's authority.
func rotationOf(ctx context.Context, c *lab.Cluster) (*rotationpb.StatusResponse, error) {
	out, err := c.Causeway(ctx, "ca", "status", "--output", "json")
	if err != nil {
		return nil, err
	}
	var s rotationpb.StatusResponse
	return &s, protojson.Unmarshal(out, &s)
}

// await waits until the new authority signs and those need the old one that are
// named.
func (r *rotating) await(ctx context.Context, behind ...string) *rotationpb.StatusResponse {
	r.t.Helper()
	var last *rotationpb.StatusResponse
	check(r.t, eventually(ctx, func() error {
		s, err := r.status(ctx)
		if err != nil {
			return err
		}
		var names []string
		for _, b := range s.Behind {
			names = append(names, b.Role+" "+b.Name)
		}
		if last = s; s.Stage != "replacing" || fmt.Sprint(names) != fmt.Sprint(behind) {
			return fmt.Errorf("%s: %v need the old authority", s.Stage, s.Behind)
		}
		return nil
	}))
	return last
}

// TestRotate: the authority of a cluster is replaced under traffic, over kill -9 of
// its API server. No agent's stream ends and no peer's watch but by that, and no
// request fails.
func TestRotate(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	r := newRotating(ctx, t)
	api, pki := r.east.APIServer(), filepath.Join(r.east.DataDir(), "pki")
	oldKey, err := os.ReadFile(filepath.Join(pki, "ca.key"))
	check(t, err)
	oldAdmin, err := os.ReadFile(r.east.AdminFile())
	check(t, err)
	away := r.east.Nodes()[0]
	check(t, away.Agent().Stop(ctx))

	// Whoever is here follows on the connection that it has.
	log, err := os.ReadFile(r.west.APIServer().LogPath())
	check(t, err)
	_, err = r.east.Causeway(ctx, "ca", "rotate")
	check(t, err)
	s := r.await(ctx, "agent "+away.Name)
	if len(s.Authorities) != 2 || s.Authorities[0].Signs || !s.Authorities[1].Signs || s.Holders < 2 {
		t.Errorf("status %v", s)
	}
	text, err := os.ReadFile(r.west.APIServer().LogPath())
	check(t, err)
	if since := string(text[len(log):]); strings.Contains(since, "peer session") || !strings.Contains(since, "authorities of the cluster have changed") {
		t.Errorf("the peer's session ended, or it has not followed:\n%s", since)
	}
	if _, err := r.east.Causeway(ctx, "ca", "rotate"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second one: %v", err)
	}
	if _, err := r.east.Causeway(ctx, "ca", "rotate", "--finish"); err == nil || !strings.Contains(err.Error(), "agent "+away.Name) {
		t.Errorf("who is away is cut off: %v", err)
	}

	// Who was away comes back, to an API server that was killed meanwhile.
	check(t, api.Kill(), api.Again(ctx), away.Agent().Again(ctx))
	check(t, r.east.AwaitReady(ctx), r.west.AwaitReady(ctx))
	s = r.await(ctx)

	// The end cuts off nobody who has followed.
	disconnects := metricOf(ctx, t, away.Agent(), "causeway_feed_disconnects_total")
	_, err = r.east.Causeway(ctx, "ca", "rotate", "--finish")
	check(t, err)
	got, err := r.status(ctx)
	check(t, err)
	if got.Stage != "" || len(got.Authorities) != 1 || got.Authorities[0].Fingerprint != s.Authorities[1].Fingerprint {
		t.Errorf("after the end: %v", got)
	}
	check(t, filepath.WalkDir(pki, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), string(oldKey)) {
			t.Errorf("%s has the old key", path)
		}
		return nil
	}))
	if _, err := os.Stat(filepath.Join(pki, "next")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("next: %v", err)
	}
	file := filepath.Join(t.TempDir(), "admin.yaml")
	check(t, os.WriteFile(file, oldAdmin, 0o600))
	home, err := r.east.Home()
	check(t, err)
	if _, err := home.Run(ctx, filepath.Join(labtest.Binaries(t), "causeway"), "status", "--admin-file", file); err == nil || !strings.Contains(err.Error(), "signed by another authority") {
		t.Errorf("an admin file of the old authority: %v", err)
	}
	check(t, eventually(ctx, func() error {
		for _, p := range r.west.Daemons()[:1] {
			text, err := os.ReadFile(p.LogPath())
			if err != nil || strings.Count(string(text), "authorities of the cluster have changed") < 2 {
				return fmt.Errorf("the old authority is trusted in west: %w", err)
			}
		}
		return nil
	}))
	if now := metricOf(ctx, t, away.Agent(), "causeway_feed_disconnects_total"); now != disconnects {
		t.Errorf("%.0f streams of the agent ended", now-disconnects)
	}

	// All begin anew with what they have.
	for _, p := range append(r.east.Daemons(), r.west.Daemons()...) {
		check(t, p.Kill(), p.Again(ctx))
	}
	check(t, r.east.AwaitReady(ctx), r.west.AwaitReady(ctx))
	for _, load := range r.loads {
		report, err := load.Stop(ctx)
		check(t, err, harm(report))
	}
}

// TestRotateForced: who is cut off is named, and comes back by new files.
func TestRotateForced(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	r := newRotating(ctx, t)
	away := r.east.Nodes()[0]
	check(t, away.Agent().Kill())
	_, err := r.east.Causeway(ctx, "ca", "rotate")
	check(t, err, r.east.APIServer().Kill(), r.east.APIServer().Again(ctx))
	r.await(ctx, "agent "+away.Name)
	out, err := r.east.Causeway(ctx, "ca", "rotate", "--finish", "--force")
	check(t, err)
	if !strings.Contains(string(out), "cut off: agent "+away.Name+", which comes back by a new certificate") {
		t.Errorf("said:\n%s", out)
	}
	check(t, r.east.APIServer().Kill(), r.east.APIServer().Again(ctx))
	check(t, away.Agent().Again(ctx))
	check(t, eventually(ctx, func() error {
		text, err := os.ReadFile(away.Agent().LogPath())
		if err != nil || !strings.Contains(string(text), "signed by another authority") {
			return fmt.Errorf("the agent does not say what is wrong: %w\n%s", err, text)
		}
		return nil
	}))
	check(t, away.Agent().Kill())
	_, err = away.StartAgent(ctx) // with files that are made anew
	check(t, err, r.east.AwaitReady(ctx), r.west.AwaitReady(ctx))
	for _, load := range r.loads {
		report, err := load.Stop(ctx)
		check(t, err, harm(report))
	}
}
