//go:build !nokubernetes

package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/release"
)

// imageFlags say which images the daemons are.
type imageFlags struct {
	image, archive, apiServer, nodeAgent string
}

func (i *imageFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&i.image, "image", "", "`repository:tag` of both images, as registry.example/causeway:v1, which stands for registry.example/causeway/clustermesh-apiserver:v1 and .../node-agent:v1")
	f.StringVar(&i.archive, "images", "", "archive `file` of \"make images\", whose images the nodes have already (kind load image-archive): take their names from it")
	f.StringVar(&i.apiServer, "api-server-image", "", "whole `reference` of clustermesh-apiserver's image")
	f.StringVar(&i.nodeAgent, "node-agent-image", "", "whole `reference` of node-agent's image")
}

// values returns the values of the images that are given.
func (i *imageFlags) values() (map[string]any, error) {
	apiServer, nodeAgent, loaded := "", "", false
	switch {
	case i.image != "" && i.archive != "":
		return nil, errors.New("--image and --images: give one of them")
	case i.image != "":
		slash, colon := strings.LastIndex(i.image, "/"), strings.LastIndex(i.image, ":")
		if colon <= slash || colon == len(i.image)-1 {
			return nil, fmt.Errorf("--image %s: give repository:tag", i.image)
		}
		repository, tag := i.image[:colon], i.image[colon+1:]
		apiServer, nodeAgent = repository+"/"+access.APIServer+":"+tag, repository+"/"+access.NodeAgent+":"+tag
	case i.archive != "":
		names, err := imageNames(i.archive)
		if err == nil {
			err = lacks(names)
		}
		if err != nil {
			return nil, fmt.Errorf("--images %s: %w: give the archive that `make images` writes, out/images.tar", i.archive, err)
		}
		apiServer, nodeAgent, loaded = names[access.APIServer], names[access.NodeAgent], true
	}
	if i.apiServer != "" {
		apiServer = i.apiServer
	}
	if i.nodeAgent != "" {
		nodeAgent = i.nodeAgent
	}
	values := map[string]any{}
	for key, reference := range map[string]string{"apiServer": apiServer, "nodeAgent": nodeAgent} {
		if reference != "" {
			values = release.Merge(values, release.Put(reference, "images", key))
		}
	}
	if loaded {
		values = release.Merge(values, release.Put("Never", "images", "pullPolicy"))
	}
	return values, nil
}

// lacks returns an error that says which of the daemons' images are not among those of
// an archive, and which are.
func lacks(names map[string]string) error {
	var missing []string
	for _, name := range []string{access.APIServer, access.NodeAgent} {
		if names[name] == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	has := slices.Sorted(maps.Values(names))
	if len(has) == 0 {
		has = []string{"none that has a name"}
	}
	return fmt.Errorf("it has no image of %s, but %s", strings.Join(missing, " and of "), strings.Join(has, ", "))
}

// maxManifest bounds the list of images in an archive, in bytes.
const maxManifest = 1 << 20

// imageNames returns the references of an archive's images by their last part, as
// nodes know them.
func imageNames(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		var of *fs.PathError
		if errors.As(err, &of) {
			err = of.Err // who asks names the file
		}
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	entries := tar.NewReader(file)
	for {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is no archive of images, as it has no manifest.json")
		}
		if err != nil {
			return nil, fmt.Errorf("it is no archive of images (%w)", err)
		}
		if entry.Name != "manifest.json" {
			continue
		}
		var images []struct{ RepoTags []string }
		if err := json.NewDecoder(io.LimitReader(entries, maxManifest)).Decode(&images); err != nil {
			return nil, fmt.Errorf("its manifest.json does not parse (%w)", err)
		}
		names := map[string]string{}
		for _, image := range images {
			for _, tag := range image.RepoTags {
				short := tag[strings.LastIndex(tag, "/")+1:]
				names[strings.Split(short, ":")[0]] = qualified(tag)
			}
		}
		return names, nil
	}
}

// qualified is what containerd makes of a short name when it loads it.
func qualified(reference string) string {
	first, _, some := strings.Cut(reference, "/")
	if some && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return reference
	}
	return "docker.io/" + reference
}
