package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/pkg/process"
)

// mountBPFFS mounts a BPF file system where a node has none. A container that runs
// it has the folder with Bidirectional propagation, and is privileged, as Kubernetes
// asks for that: the agent itself is not.
type mountBPFFS struct{ dir string }

func (m *mountBPFFS) command() process.Command {
	return process.Command{
		Name:    "mount-bpffs",
		Summary: "Mounts a BPF file system on a node that has none, before the agent starts.",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&m.dir, "dir", "/sys/fs/bpf", "`folder` to mount it on")
		},
		Run: func(_ context.Context, stdout io.Writer) error { return m.run(stdout) },
	}
}

func (m *mountBPFFS) run(stdout io.Writer) error {
	mounted, err := pin.Mount(m.dir)
	if err != nil {
		return err
	}
	text := "there is one on %s\n"
	if mounted {
		text = "mounted one on %s\n"
	}
	_, err = fmt.Fprintf(stdout, text, m.dir)
	return err
}
