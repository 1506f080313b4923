package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// What the manifests in testdata/clusters have in common: a service web at one
// address, which is the same in all of them.
const (
	shop = "shop"
	web  = "10.96.0.10:80"
)

// world is what one script acts on.
type world struct {
	t    testing.TB
	lab  *lab.Lab
	work string // the script's folder
	// network is that of the clusters to come.
	network lab.Network
	loads   map[string]*lab.Load
	// logged is how much earlier lives of processes had logged, by file.
	logged map[string]int
}

func newWorld(t testing.TB, work string) *world {
	return &world{t: t, lab: labtest.New(t), work: work, loads: map[string]*lab.Load{}, logged: map[string]int{}}
}

func (w *world) cluster(name string) (*lab.Cluster, error) {
	for _, c := range w.lab.Clusters() {
		if c.Name == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("there is no cluster %q", name)
}

// pod splits the name of a pod; it need not be a real one.
func (w *world) podName(text string) (c *lab.Cluster, namespace, name string, err error) {
	parts := strings.Split(text, "/")
	if len(parts) == 2 {
		parts = slices.Insert(parts, 1, shop)
	}
	if len(parts) != 3 {
		return nil, "", "", fmt.Errorf("%q is not CLUSTER/NAMESPACE/POD", text)
	}
	c, err = w.cluster(parts[0])
	return c, parts[1], parts[2], err
}

func (w *world) pod(text string) (*lab.Pod, error) {
	c, namespace, name, err := w.podName(text)
	if err != nil {
		return nil, err
	}
	return c.Pod(namespace, name)
}

func (w *world) node(text string) (*lab.Node, error) {
	cluster, node, ok := strings.Cut(text, "/")
	if !ok {
		return nil, fmt.Errorf("%q is not CLUSTER/NODE", text)
	}
	c, err := w.cluster(cluster)
	if err != nil {
		return nil, err
	}
	return c.Node(node)
}

// processes returns the daemons that the words name.
func (w *world) processes(words []string) ([]*lab.Process, error) {
	var out []*lab.Process
	for _, word := range words {
		list, err := w.named(word)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func (w *world) named(word string) ([]*lab.Process, error) {
	var out []*lab.Process
	if word == "all" {
		for _, c := range w.lab.Clusters() {
			out = append(out, c.Daemons()...)
		}
		return out, nil
	}
	name, rest, ok := strings.Cut(word, "/")
	c, err := w.cluster(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return c.Daemons(), nil
	}
	p := c.APIServer()
	if rest != "api" {
		n, err := c.Node(rest)
		if err != nil {
			return nil, err
		}
		p = n.Agent()
	}
	if p == nil {
		return nil, fmt.Errorf("%s: %w", word, lab.ErrNotStarted)
	}
	return []*lab.Process{p}, nil
}
