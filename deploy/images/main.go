// Images writes one archive with the container images of the daemons, from
// binaries that are there: see `make images`.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/causeway-mesh/causeway/deploy/oci"
)

// nobody runs the API server, which needs no rights on its node: a number that
// is in no machine's list of users, and that Kubernetes can tell from root.
const nobody = "65532:65532"

type config struct {
	binaries, output, repository, tag, architecture string
}

func main() {
	var c config
	flag.StringVar(&c.binaries, "binaries", "bin", "folder of the static binaries")
	flag.StringVar(&c.output, "output", "", "archive to write (required)")
	flag.StringVar(&c.repository, "repository", "causeway", "what the images' names begin with")
	flag.StringVar(&c.tag, "tag", "", "tag of the images (required)")
	flag.StringVar(&c.architecture, "arch", runtime.GOARCH, "architecture of the binaries")
	flag.Parse()
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// run writes the archive as a whole or not at all.
func run(c config) error {
	if c.output == "" || c.tag == "" {
		return errors.New("-output and -tag are required")
	}
	images := images(c)
	for _, image := range images {
		if err := checkBinary(image.Program, c.architecture); err != nil {
			return err
		}
	}
	file, err := os.CreateTemp(filepath.Dir(c.output), ".images-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // it is gone when all went well
	if err := errors.Join(oci.Write(file, images), file.Chmod(0o644), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), c.output); err != nil {
		return err
	}
	for _, image := range images {
		fmt.Println(image.Name)
	}
	return nil
}

func images(c config) []oci.Image {
	image := func(program, user, what string) oci.Image {
		path := filepath.Join(c.binaries, program)
		labels := map[string]string{
			"org.opencontainers.image.title": program, "org.opencontainers.image.description": what, "org.opencontainers.image.version": c.tag,
			"org.opencontainers.image.licenses": "Apache-2.0",
		}
		if commit := revision(path); commit != "" {
			labels["org.opencontainers.image.revision"] = commit
		}
		return oci.Image{Name: c.repository + "/" + program + ":" + c.tag, Program: path, User: user, Architecture: c.architecture, Labels: labels}
	}
	return []oci.Image{
		image("clustermesh-apiserver", nobody, "Causeway's API server, one a cluster"),
		// Root, as it loads eBPF programs and changes its node's routes; what it may do
		// besides is for who starts it to take away.
		image("node-agent", "", "Causeway's agent, one a node"),
	}
}
