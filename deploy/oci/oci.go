// Package oci writes container images of static programs as one archive, without
// a container engine or a registry: FROM scratch, one layer. The archive is an OCI
// image layout with Docker's manifest beside it, so that containerd, kind,
// podman and docker of any age load it. The same input gives the same bytes.
//
// Formats: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
// and, for manifest.json, what `docker save` writes.
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
	"path"
	"strings"
	"time"
)

// Media types of the image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// Image is an image of one program.
type Image struct {
	// Name is what it is loaded as: "causeway/node-agent:v1.2.0".
	Name string
	// Program is the path of a static binary on this machine. It lies in the
	// image's root under its own name, and is the entry point.
	Program string
	// Args are given to the program unless who starts it gives others.
	Args []string
	// User runs it, as "uid:gid"; root when empty.
	User string
	// Architecture is the program's, as Go names it: "amd64".
	Architecture string
	// Labels are kept in the image's configuration.
	Labels map[string]string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type config struct {
	Created time.Time `json:"created"`
	platform
	Config runConfig `json:"config"`
	RootFS rootFS    `json:"rootfs"`
}

type runConfig struct {
	User       string            `json:"User,omitempty"`
	Entrypoint []string          `json:"Entrypoint"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// dockerEntry is what Docker's manifest.json says of an image.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Write writes an archive that holds the images. Programs are read into memory
// one at a time.
func Write(w io.Writer, images []Image) error {
	if len(images) == 0 {
		return errors.New("write an archive: no images")
	}
	a := &archive{tar: tar.NewWriter(w), written: map[string]bool{}}
	list := index{SchemaVersion: 2, MediaType: typeIndex}
	var docker []dockerEntry
	for _, image := range images {
		entry, old, err := a.add(image)
		if err != nil {
			return fmt.Errorf("write image %q: %w", image.Name, err)
		}
		list.Manifests, docker = append(list.Manifests, entry), append(docker, old)
	}
	for _, file := range []struct {
		name string
		data any
	}{
		{"index.json", list},
		{"manifest.json", docker},
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}},
	} {
		text, err := json.Marshal(file.data)
		if err == nil {
			err = addFile(a.tar, file.name, 0o644, text)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", file.name, err)
		}
	}
	return a.tar.Close()
}

type archive struct {
	tar     *tar.Writer
	written map[string]bool // by digest: images may share blobs
}

func (a *archive) add(image Image) (descriptor, dockerEntry, error) {
	repository, tag, ok := strings.Cut(image.Name, ":")
	if !ok || repository == "" || tag == "" || strings.ContainsAny(tag, ":/") {
		return descriptor{}, dockerEntry{}, errors.New("the name must be repository:tag, without a registry's port")
	}
	layer, err := a.layer(image.Program)
	if err != nil {
		return descriptor{}, dockerEntry{}, err
	}
	on := platform{Architecture: image.Architecture, OS: "linux"}
	settings, err := a.json(typeConfig, config{
		Created: time.Unix(0, 0).UTC(), platform: on,
		Config: runConfig{User: image.User, Entrypoint: []string{"/" + path.Base(image.Program)}, Cmd: image.Args, WorkingDir: "/", Labels: image.Labels},
		// A layer that is not compressed has one digest only.
		RootFS: rootFS{Type: "layers", DiffIDs: []string{layer.Digest}},
	})
	if err != nil {
		return descriptor{}, dockerEntry{}, err
	}
	entry, err := a.json(typeManifest, manifest{SchemaVersion: 2, MediaType: typeManifest, Config: settings, Layers: []descriptor{layer}})
	if err != nil {
		return descriptor{}, dockerEntry{}, err
	}
	entry.Platform = &on
	entry.Annotations = map[string]string{
		"io.containerd.image.name":          fullName(image.Name),
		"org.opencontainers.image.ref.name": tag,
	}
	return entry, dockerEntry{Config: blobPath(settings.Digest), RepoTags: []string{image.Name}, Layers: []string{blobPath(layer.Digest)}}, nil
}

// fullName puts Docker's registry before a name without one, as docker does:
// Kubernetes asks for the same.
func fullName(name string) string {
	first, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io/library/" + name
	case strings.ContainsAny(first, ".:") || first == "localhost":
		return name
	}
	return "docker.io/" + name
}

// layer writes the blob of a root that holds a program and nothing else.
func (a *archive) layer(program string) (descriptor, error) {
	text, err := os.ReadFile(program)
	if err != nil {
		return descriptor{}, err
	}
	var buffer bytes.Buffer
	buffer.Grow(len(text) + 4096)
	root := tar.NewWriter(&buffer)
	if err := errors.Join(addFile(root, path.Base(program), 0o755, text), root.Close()); err != nil {
		return descriptor{}, err
	}
	return a.blob(typeLayer, buffer.Bytes())
}

func (a *archive) json(mediaType string, data any) (descriptor, error) {
	text, err := json.Marshal(data)
	if err != nil {
		return descriptor{}, err
	}
	return a.blob(mediaType, text)
}

func (a *archive) blob(mediaType string, data []byte) (descriptor, error) {
	d := descriptor{MediaType: mediaType, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(data)), Size: int64(len(data))}
	if a.written[d.Digest] {
		return d, nil
	}
	a.written[d.Digest] = true
	return d, addFile(a.tar, blobPath(d.Digest), 0o644, data)
}

func blobPath(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

// addFile adds a file of no time and no owner.
func addFile(w *tar.Writer, name string, mode int64, data []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
