package kind

import (
	"bytes"
	"context"
	_ "embed" // the manifest
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
)

//go:embed testdata/load.yaml
var loadManifest string

// load is a pod of a cluster that makes 200 connections a second to the service, and
// holds 50.
type load struct {
	cluster *Cluster
	logs    *exec.Cmd
	out     bytes.Buffer
}

// startLoad returns once the pod runs.
func startLoad(ctx context.Context, c *Cluster) (*load, error) {
	// By address: what CoreDNS makes of so many questions is not of interest here.
	address, err := c.Kubectl(ctx, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return nil, err
	}
	if _, err := c.Kubectl(ctx, "delete", "pod", "load", "--ignore-not-found", "--timeout=2m"); err != nil {
		return nil, err
	}
	if err := c.Apply(ctx, strings.NewReplacer("CLUSTER", c.Name, "TARGET", address+":80").Replace(loadManifest)); err != nil {
		return nil, err
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/load", "--timeout=3m"); err != nil {
		return nil, err
	}
	l := &load{cluster: c}
	l.logs = c.bed.Command(ctx, c.bed.parts.Kubernetes, "kubectl", "--context", c.Context(), "logs", "--follow", "load")
	l.logs.Stdout = &l.out
	return l, l.logs.Start()
}

// stop ends it, and fails if anything failed, or if too little was asked to tell.
func (l *load) stop(ctx context.Context) error {
	_, err := l.cluster.Kubectl(ctx, "delete", "pod", "load", "--timeout=2m")
	if err = errors.Join(err, l.logs.Wait()); err != nil {
		return fmt.Errorf("the load of %s: %w", l.cluster.Name, err)
	}
	var last workload.Report
	if err := json.Unmarshal([]byte(tail(l.out.String(), 1)), &last); err != nil {
		return fmt.Errorf("read the report of the load of %s: %w", l.cluster.Name, err)
	}
	asked, held := last.New, last.Long
	if asked.Failed+held.Failed > 0 || !last.Last {
		return fmt.Errorf("a pod of %s: of %d new connections %d failed (%v), of %d exchanges on long ones %d (%v); it ended itself: %t", l.cluster.Name,
			asked.OK+asked.Failed, asked.Failed, asked.Errors, held.OK+held.Failed, held.Failed, held.Errors, last.Last)
	}
	if asked.OK < 1000 || held.OK < 1000 {
		return fmt.Errorf("a pod of %s asked too little to tell: %d new connections, %d exchanges on long ones", l.cluster.Name, asked.OK, held.OK)
	}
	for _, name := range []string{"east/", "west/"} {
		if !strings.Contains(fmt.Sprint(asked.Pods), name) {
			return fmt.Errorf("a pod of %s was answered by %v alone", l.cluster.Name, asked.Pods)
		}
	}
	return nil
}

// underLoad does something while a pod of each cluster asks those of both: nothing
// may fail.
func (j *journey) underLoad(ctx context.Context, do func(*Cluster) error) {
	j.t.Helper()
	loads := map[string]*load{}
	for _, c := range j.bed.Clusters() {
		l, err := startLoad(ctx, c)
		j.must(err)
		loads[c.Name] = l
	}
	begun := time.Now()
	err := j.bed.each(do)
	j.t.Logf("it took %s under load", time.Since(begun).Round(time.Second))
	err = errors.Join(err, j.bed.each(func(c *Cluster) error { return loads[c.Name].stop(ctx) }))
	j.must(err)
}

// roll replaces all agents and API servers.
func (j *journey) roll(ctx context.Context) {
	j.underLoad(ctx, func(c *Cluster) error {
		for _, what := range []string{"daemonset/node-agent", "statefulset/clustermesh-apiserver"} {
			for _, args := range [][]string{{"restart", what}, {"status", what, "--timeout=5m"}} {
				if _, err := c.Kubectl(ctx, append([]string{"-n", namespace, "rollout"}, args...)...); err != nil {
					return err
				}
			}
		}
		_, err := j.mesh.Causeway(ctx, "status", "--context", c.Context(), "--wait", "--timeout", "5m")
		return err
	})
}

// upgrade goes from the commit before to this one, the API servers first.
func (j *journey) upgrade(ctx context.Context) {
	root, end, err := j.bed.parentCommit(ctx)
	j.must(err)
	defer func() {
		if err := end(); err != nil {
			j.t.Error(err)
		}
	}()
	before, err := j.bed.BuildMesh(ctx, root, "before")
	j.must(err)
	said, err := before.Causeway(ctx, "up", "--contexts", j.contexts(), "--images", before.Images)
	j.must(err)
	j.t.Log(said)
	for _, c := range j.bed.Clusters() {
		j.all(ctx, c, "client")
	}
	if before.Version == j.mesh.Version {
		j.t.Fatalf("both versions are %s: what is upgraded?", before.Version)
	}
	j.underLoad(ctx, func(c *Cluster) error {
		_, err := j.mesh.Causeway(ctx, "upgrade", "--context", c.Context(), "--api-server-image", "causeway/clustermesh-apiserver:test")
		if err != nil {
			return err
		}
		status, err := j.mesh.Causeway(ctx, "status", "--context", c.Context())
		if err == nil && (!strings.Contains(status, before.Version) || !strings.Contains(status, j.mesh.Version)) {
			err = fmt.Errorf("with an API server of %s and agents of %s status says:\n%s", j.mesh.Version, before.Version, status)
		}
		return err
	})
	j.underLoad(ctx, func(c *Cluster) error {
		_, err := j.mesh.Causeway(ctx, "upgrade", "--context", c.Context(), "--images", j.mesh.Images)
		if err != nil {
			return err
		}
		status, err := j.mesh.Causeway(ctx, "status", "--context", c.Context())
		if err == nil && strings.Contains(status, before.Version) {
			err = fmt.Errorf("after the upgrade status says:\n%s", status)
		}
		return err
	})
}
