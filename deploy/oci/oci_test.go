package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// program writes a file that stands for a static binary.
func program(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// files returns what a tar archive holds, and fails when a name is there twice.
func files(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := out[header.Name]; ok {
			t.Errorf("%s is in the archive twice", header.Name)
		}
		out[header.Name] = text
	}
}

func write(t *testing.T, images ...Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, images); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decode[T any](t *testing.T, text []byte) T {
	t.Helper()
	var v T
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// follow returns the blob of a descriptor, which must be what it says.
func follow(t *testing.T, archive map[string][]byte, d descriptor) []byte {
	t.Helper()
	text, ok := archive[blobPath(d.Digest)]
	if !ok {
		t.Fatalf("no blob %s", d.Digest)
	}
	if sum := fmt.Sprintf("sha256:%x", sha256.Sum256(text)); sum != d.Digest || int64(len(text)) != d.Size {
		t.Errorf("blob %s has the digest %s and %d bytes, not %d", d.Digest, sum, len(text), d.Size)
	}
	return text
}

func TestWrite(t *testing.T) {
	t.Parallel()
	images := []Image{
		{Name: "causeway/one:v1", Program: program(t, "one", "first program"), User: "65532:65532", Architecture: "amd64", Labels: map[string]string{"a": "b"}},
		{Name: "example.org/two:v2", Program: program(t, "two", "second program"), Args: []string{"serve"}, Architecture: "arm64"},
	}
	archive := files(t, write(t, images...))
	if got, want := string(archive["oci-layout"]), `{"imageLayoutVersion":"1.0.0"}`; got != want {
		t.Errorf("oci-layout: %s, want %s", got, want)
	}
	list := decode[index](t, archive["index.json"])
	docker := decode[[]dockerEntry](t, archive["manifest.json"])
	if len(list.Manifests) != 2 || len(docker) != 2 {
		t.Fatalf("%d and %d images, want 2", len(list.Manifests), len(docker))
	}
	wantNames := []string{"docker.io/causeway/one:v1", "example.org/two:v2"}
	wantFiles := []map[string][]byte{{"one": []byte("first program")}, {"two": []byte("second program")}}
	wantConfigs := []runConfig{
		{User: "65532:65532", Entrypoint: []string{"/one"}, WorkingDir: "/", Labels: map[string]string{"a": "b"}},
		{Entrypoint: []string{"/two"}, Cmd: []string{"serve"}, WorkingDir: "/"},
	}
	for i, entry := range list.Manifests {
		if got := entry.Annotations["io.containerd.image.name"]; got != wantNames[i] {
			t.Errorf("image %d is named %q, want %q", i, got, wantNames[i])
		}
		m := decode[manifest](t, follow(t, archive, entry))
		layer := follow(t, archive, m.Layers[0])
		if diff := cmp.Diff(wantFiles[i], files(t, layer)); diff != "" {
			t.Errorf("layer of image %d (-want +got):\n%s", i, diff)
		}
		c := decode[config](t, follow(t, archive, m.Config))
		if diff := cmp.Diff(wantConfigs[i], c.Config); diff != "" {
			t.Errorf("configuration of image %d (-want +got):\n%s", i, diff)
		}
		if c.Architecture != images[i].Architecture || c.OS != "linux" || *entry.Platform != c.platform {
			t.Errorf("image %d is for %s/%s and %v", i, c.OS, c.Architecture, *entry.Platform)
		}
		if diff := cmp.Diff([]string{m.Layers[0].Digest}, c.RootFS.DiffIDs); diff != "" {
			t.Errorf("layers of image %d (-manifest +configuration):\n%s", i, diff)
		}
		want := dockerEntry{Config: blobPath(m.Config.Digest), RepoTags: []string{images[i].Name}, Layers: []string{blobPath(m.Layers[0].Digest)}}
		if diff := cmp.Diff(want, docker[i]); diff != "" {
			t.Errorf("manifest.json of image %d (-want +got):\n%s", i, diff)
		}
	}
}

// TestLayerModes: who is not root must be able to run the program.
func TestLayerModes(t *testing.T) {
	t.Parallel()
	archive := files(t, write(t, Image{Name: "causeway/one:v1", Program: program(t, "one", "text")}))
	m := decode[manifest](t, follow(t, archive, decode[index](t, archive["index.json"]).Manifests[0]))
	header, err := tar.NewReader(bytes.NewReader(follow(t, archive, m.Layers[0]))).Next()
	if err != nil {
		t.Fatal(err)
	}
	if header.Mode != 0o755 || header.Uid != 0 || header.ModTime.Unix() != 0 {
		t.Errorf("the program has the mode %o, the owner %d and the time %v", header.Mode, header.Uid, header.ModTime)
	}
}

// TestSame: the same programs give the same archive, wherever they lie; a blob
// that two images share is there once.
func TestSame(t *testing.T) {
	t.Parallel()
	pair := func() []byte {
		return write(t,
			Image{Name: "causeway/one:v1", Program: program(t, "one", "text")},
			Image{Name: "causeway/one:v2", Program: program(t, "one", "text")})
	}
	if a, b := pair(), pair(); !bytes.Equal(a, b) {
		t.Error("the same programs gave other bytes")
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	good := program(t, "one", "text")
	for name, test := range map[string]struct {
		images []Image
		want   string
	}{
		"none":       {nil, "no images"},
		"no tag":     {[]Image{{Name: "causeway/one", Program: good}}, "repository:tag"},
		"empty tag":  {[]Image{{Name: "causeway/one:", Program: good}}, "repository:tag"},
		"a port":     {[]Image{{Name: "localhost:5000/one:v1", Program: good}}, "repository:tag"},
		"no program": {[]Image{{Name: "causeway/one:v1", Program: good + "x"}}, "no such file"},
	} {
		if err := Write(io.Discard, test.images); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestFullName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"one:v1":           "docker.io/library/one:v1",
		"causeway/one:v1":  "docker.io/causeway/one:v1",
		"localhost/one:v1": "localhost/one:v1",
		"ghcr.io/a/one:v1": "ghcr.io/a/one:v1",
	} {
		if got := fullName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
