package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/process"
)

// cleanup takes what agents left in the kernel out of it.
type cleanup struct {
	bpffs  string
	dryRun bool
}

func (c *cleanup) command() process.Command {
	return process.Command{
		Name:    "cleanup",
		Summary: "Takes all of Causeway out of this node's kernel, after the agent was stopped; files stay.",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&c.bpffs, "bpffs-dir", defaultBPFFS, "the agent's `folder` on a BPF file system")
			f.BoolVar(&c.dryRun, "dry-run", false, "only say what would be removed")
		},
		Run: func(_ context.Context, stdout io.Writer) error { return c.run(stdout) },
	}
}

// run removes the routes into the tunnels before the programs: without those,
// a tunnel would carry what nobody looks at. What it removed is said even when it
// could not remove all.
func (c *cleanup) run(stdout io.Writer) (err error) {
	pins, err := datapath.OpenPins(c.bpffs)
	if errors.Is(err, datapath.ErrInUse) {
		return fmt.Errorf("%w: stop the node-agent first", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pins.Close()) }()
	network, err := host.Open(host.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()

	// The folder may be another one than that of the agent.
	if pid, held, err := network.Holder(); err != nil {
		return err
	} else if held {
		return fmt.Errorf("an agent that does not use %s is in charge of this node's network (process %d): stop it first, and give its --bpffs-dir", c.bpffs, pid)
	}

	if _, err := os.Stat(c.bpffs); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(stdout, "there is no folder %s, so no programs or maps are pinned there; if the agent has another --bpffs-dir, give that one\n", c.bpffs)
	}
	verb, items, paths := "removed", network.Remove, pins.Remove
	if c.dryRun {
		verb, items, paths = "would remove", network.Items, pins.List
	}
	ours, itemErr := items()
	for _, item := range ours {
		fmt.Fprintf(stdout, "%s %s %s (%s)\n", verb, item.Kind, item.Name, item.Mark)
	}
	pinned, pathErr := paths()
	for _, path := range pinned {
		fmt.Fprintf(stdout, "%s pin %s\n", verb, path)
	}
	if err := errors.Join(itemErr, pathErr); err != nil {
		return err
	}
	if len(ours)+len(pinned) == 0 {
		fmt.Fprintln(stdout, "nothing of Causeway is in this node's kernel")
	}
	return nil
}
