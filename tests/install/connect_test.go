package install

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/deploy/oci"
)

// archive writes some of the images as `make images` does.
func archive(t *testing.T, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "images.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var some []oci.Image
	for _, image := range images(t) {
		for _, name := range names {
			if image.Name == name {
				some = append(some, image)
			}
		}
	}
	if err := oci.Write(file, some); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// installArgs install one cluster by the archive of its images.
func (j *journey) installArgs(t *testing.T, s *site, name, id string) []string {
	t.Helper()
	args := j.args("kind-"+name, "install", "--timeout", patience.String(), "--cluster-name", name, "--cluster-id", id,
		"--images", archive(t, apiServerImage, nodeAgentImage), "--set", "gateway.type=NodePort", "--set", "etcd.mode=memory", "--set", "cluster.meshCIDR=100.64."+id+".0/24")
	return append(args, s.settings(t)...)
}

// install installs both clusters, each by itself.
func (j *journey) install(t *testing.T) {
	refused(t, []string{"context kind-east", "Causeway is not installed there", "`causeway install --context kind-east`"}, "connect", "--kubeconfig", j.config, "--contexts", contexts)
	refused(t, []string{"Causeway is not installed there", "`causeway install --context kind-east`"}, j.args("kind-east", "upgrade")...)
	east, west := j.installArgs(t, j.east, "east", "1"), j.installArgs(t, j.west, "west", "2")
	before := j.everything(t, "resourceVersion")
	says(t, causeway(t, append(east, "--dry-run")...), "would install release causeway", "+ StatefulSet causeway-system/clustermesh-apiserver",
		"kind: StatefulSet", apiServerImage, nodeAgentImage)
	if diff := cmp.Diff(before, j.everything(t, "resourceVersion")); diff != "" {
		t.Errorf("what was only shown changed something:\n%s", diff)
	}
	for _, c := range []*command{start(t, east...), start(t, west...)} {
		if _, err := c.wait(t); err != nil {
			t.FailNow()
		}
	}
}

// connect joins both, killed at several places, and where one side reads alone.
func (j *journey) connect(t *testing.T) {
	connect := []string{"connect", "--kubeconfig", j.config, "--contexts", contexts}
	for _, place := range []string{"2 clusters fit together and reach each other", "a private key was made", "signed a certificate to read it with"} {
		c := start(t, connect...)
		c.says(t, place)
		c.interrupt(t, syscall.SIGKILL)
		causeway(t, connect...)
		j.joined(t)
		if t.Failed() {
			t.Fatalf("it was killed when it had said %q", place)
		}
		j.on(t, "kind-east", "disconnect", "west")
		j.on(t, "kind-west", "disconnect", "east")
	}
	causeway(t, connect...)
	j.joined(t)
	before := j.everything(t, "generation")
	says(t, causeway(t, connect...), "east and west read each other already")
	if diff := cmp.Diff(before, j.everything(t, "generation")); diff != "" {
		t.Errorf("done again it changed something:\n%s", diff)
	}
	j.on(t, "kind-east", "disconnect", "west")
	causeway(t, connect...)
	j.joined(t)
}
