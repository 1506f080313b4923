//go:build !nokubernetes

package main

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/causeway/release"
)

func TestNameOf(t *testing.T) {
	for context, want := range map[string]string{
		"kind-east": "east", "east": "east", "k3d-lab": "lab", "admin@East.prod": "east-prod",
		"arn:aws:eks:eu-west-1:111122223333:cluster/east": "east", "gke_project_europe-west1_east": "east",
		"a-name-that-is-much-longer-than-32-characters": "a-name-that-is-much-longer-than",
	} {
		if got := nameOf(context); got != want {
			t.Errorf("nameOf(%q) = %q, want %q", context, got, want)
		}
	}
}

func TestValuesForOneCluster(t *testing.T) {
	flags := installFlags{given: release.Given{Set: []string{"east:etcd.mode=memory", "etcd.mode=persistent", "west:a.b=c:d"}}}
	flags.images.image = "registry.example:5000/causeway:v1"
	for name, want := range map[string]string{"east": "memory", "west": "persistent"} {
		values, err := flags.valuesFor(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := release.At(values, "etcd", "mode"); got != want {
			t.Errorf("%s: etcd.mode is %v, want %s", name, got, want)
		}
		if got := release.At(values, "images", "nodeAgent"); got != "registry.example:5000/causeway/node-agent:v1" {
			t.Errorf("%s: images.nodeAgent is %v", name, got)
		}
		if got := release.At(values, "a", "b"); name == "west" && got != "c:d" {
			t.Errorf("west: a.b is %v", got)
		}
	}
}

func TestImages(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "images.tar")
	file, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	text := `[{"RepoTags":["causeway/clustermesh-apiserver:dev"]},{"RepoTags":["localhost/causeway/node-agent:dev"]}]`
	w := tar.NewWriter(file)
	if err := w.WriteHeader(&tar.Header{Name: "manifest.json", Size: int64(len(text)), Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	values, err := (&imageFlags{archive: archive}).values()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"images": map[string]any{
		"apiServer": "docker.io/causeway/clustermesh-apiserver:dev", "nodeAgent": "localhost/causeway/node-agent:dev", "pullPolicy": "Never",
	}}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Error(diff)
	}
	for want, flags := range map[string]imageFlags{
		"repository:tag": {image: "causeway"},
		"one of them":    {image: "a:b", archive: archive},
		"--images " + archive + "none: no such file or directory: give": {archive: archive + "none"},
	} {
		if _, err := flags.values(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// Who names no cluster, or two, or one that is not there, is told what to do.
func TestContextErrors(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\ncontexts: [{name: east, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		`there is no context "west"`:     {"status", "--kubeconfig", file, "--context", "west"},
		"has no current context":         {"status", "--kubeconfig", file},
		"give one of them":               {"status", "--kubeconfig", file, "--context", "east", "--admin-file", "f"},
		"no answer from Kubernetes":      {"status", "--kubeconfig", file, "--context", "east"},
		"give --contexts":                {"up", "--kubeconfig", file},
		"stands there twice":             {"up", "--kubeconfig", file, "--contexts", "east,east"},
		"one for each of --contexts":     {"up", "--kubeconfig", file, "--contexts", "east", "--names", "a,b"},
		"give a range of IPv4":           {"up", "--kubeconfig", file, "--contexts", "east", "--mesh-cidr", "10.0.0.0/24"},
		"nothing was changed":            {"up", "--kubeconfig", file, "--contexts", "east,west"},
		"at least two clusters":          {"connect", "--kubeconfig", file, "--contexts", "east"},
		"there is no Kubernetes context": {"install", "--kubeconfig", os.DevNull},
	} {
		var out strings.Builder
		cmd := newCommand(&out)
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %q", args, err, want)
		}
	}
}
