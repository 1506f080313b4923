package kind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
)

// namespace is where Causeway is in the clusters.
const namespace = "causeway-system"

// look prints what of a node's network and pins is not the pods' own: devices, rules,
// tables, our routes.
const look = `find /sys/fs/bpf -mindepth 1 ! -name '*.debug'
ip -o link | cut -d: -f2 | grep -v veth | sed 's/@.*//;s/^/device/' | sort
ip rule; ip -6 rule
ip route show table all proto 203; ip -6 route show table all proto 203
nft list tables | sort
nft list ruleset | grep -i causeway || true`

// onNodes returns what look prints on each node.
func (j *journey) onNodes(ctx context.Context) map[string]string {
	j.t.Helper()
	found := map[string]string{}
	var mu sync.Mutex
	j.must(j.bed.each(func(c *Cluster) error {
		nodes, err := c.Nodes(ctx)
		if err != nil {
			return err
		}
		for _, node := range nodes {
			out, err := c.OnNode(ctx, node.Name, "sh", "-ec", look)
			if err != nil {
				return err
			}
			mu.Lock()
			found[node.Name] = out
			mu.Unlock()
		}
		return nil
	}))
	return found
}

// socketPrograms returns how many programs are at the socket hooks of all containers
// of the bed.
func socketPrograms(t *testing.T, b *Bed) (count int) {
	t.Helper()
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(root, b.group()), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a pod that went meanwhile
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		dir, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }()
		for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP4Recvmsg} {
			found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hook})
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			count += len(found.Programs)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// kinds are those of all objects that the chart, the API server and the command line make.
const kinds = "namespaces,serviceaccounts,secrets,configmaps,services,endpointslices,statefulsets,daemonsets,pods,jobs,clusterroles,clusterrolebindings,roles,rolebindings," +
	"customresourcedefinitions,persistentvolumeclaims,poddisruptionbudgets,networkpolicies,controllerrevisions"

// objects returns what there is of Causeway in a cluster's API, a line each.
func (j *journey) objects(ctx context.Context, c *Cluster) string {
	j.t.Helper()
	var ours strings.Builder
	for line := range strings.Lines(j.kubectl(ctx, c, "get", kinds, "--all-namespaces", "--no-headers", "--ignore-not-found")) {
		if strings.Contains(line, "causeway") || strings.Contains(line, "clustermesh") {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

// uninstall leaves neither objects nor anything in the nodes' kernels; what was there
// before still is, and the pods' own service works.
func (j *journey) uninstall(ctx context.Context) {
	for _, c := range j.bed.Clusters() {
		if j.objects(ctx, c) == "" {
			j.t.Fatalf("%s has no object of Causeway that could go", c.Name)
		}
	}
	if socketPrograms(j.t, j.bed) == 0 {
		j.t.Fatal("no program that could go is at the nodes' socket hooks")
	}
	j.t.Log(j.causeway(ctx, "uninstall", "--contexts", j.contexts()))
	for _, c := range j.bed.Clusters() {
		if left := j.objects(ctx, c); left != "" {
			j.t.Errorf("%s still has\n%s", c.Name, left)
		}
		j.only(ctx, c, c.Name)
	}
	if diff := cmp.Diff(j.before, j.onNodes(ctx)); diff != "" {
		j.t.Errorf("the nodes are not as they were (-before +after):\n%s", diff)
	}
	if left := socketPrograms(j.t, j.bed); left > 0 {
		j.t.Errorf("%d programs are at the nodes' socket hooks", left)
	}
}
