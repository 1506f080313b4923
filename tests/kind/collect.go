package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Collect writes the state and the logs of all clusters into out/kind, replacing
// what is there. What cannot be had is left out and said in the error.
func (b *Bed) Collect(ctx context.Context) error {
	err := errors.Join(os.RemoveAll(b.out), os.MkdirAll(b.out, 0o755))
	if log, readErr := os.ReadFile(b.path("dockerd.log")); readErr == nil {
		err = errors.Join(err, os.WriteFile(filepath.Join(b.out, "dockerd.log"), log, 0o644))
	}
	return errors.Join(err, b.each(func(c *Cluster) error { return c.collect(ctx) }))
}

func (c *Cluster) collect(ctx context.Context) error {
	var failed []error
	keep := func(name, text string, err error) {
		if err != nil {
			failed = append(failed, err)
			text += "\n" + err.Error()
		}
		if err := os.WriteFile(filepath.Join(c.bed.out, c.Name+"-"+name), []byte(text), 0o644); err != nil {
			failed = append(failed, err)
		}
	}
	out, err := c.Kubectl(ctx, "get", "all,nodes,endpointslices,configmaps,events", "-A", "-o", "wide")
	keep("objects.txt", out, err)
	out, err = c.Kubectl(ctx, "describe", "pods,nodes", "-A")
	keep("describe.txt", out, err)
	pods, err := c.Kubectl(ctx, "get", "pods", "-A", "-o", `jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}`)
	if err != nil {
		failed = append(failed, err)
	}
	for pod := range strings.FieldsSeq(pods) {
		namespace, name, _ := strings.Cut(pod, "/")
		out, err := c.Kubectl(ctx, "-n", namespace, "logs", "--all-containers", "--prefix", "--tail=5000", name)
		keep(namespace+"-"+name+".log", out, err)
		// There may be none before.
		if out, err := c.Kubectl(ctx, "-n", namespace, "logs", "--all-containers", "--prefix", "--tail=5000", "--previous", name); err == nil {
			keep(namespace+"-"+name+".previous.log", out, nil)
		}
	}
	nodes, err := c.bed.docker(ctx, "ps", "--all", "--format", "{{.Names}}")
	if err != nil {
		failed = append(failed, err)
	}
	for node := range strings.FieldsSeq(nodes) {
		if !strings.HasPrefix(node, c.Name+"-") {
			continue
		}
		out, err := c.OnNode(ctx, node, "journalctl", "--no-pager", "--lines=20000")
		if err != nil { // it may not have come so far
			out, err = c.bed.docker(ctx, "logs", node)
		}
		keep(node+".log", out, err)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of its logs could not be had, the first: %w", len(failed), failed[0])
	}
	return nil
}
