package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/process"
)

// probePod answers on the network of pods, for --route-mode auto and causeway
// diagnose.
type probePod struct {
	listen  string
	logging process.LogConfig
}

func (p *probePod) command() process.Command {
	return process.Command{
		Name:    "probe-pod",
		Summary: "Runs in a pod with the label " + probe.PodLabel + ": \"true\", one a node, to try which way packets between clusters can take; needs no rights.",
		Flags: func(f *pflag.FlagSet) {
			f.StringVar(&p.listen, "listen", fmt.Sprintf("[::]:%d", probe.Port), "`address:port` (UDP) where agents and other clusters' probe pods ask; they expect that port")
			p.logging.Flags(f)
		},
		Validate: func() error { _, err := p.at(); return err },
		Run:      p.run,
	}
}

// at returns where others ask.
func (p *probePod) at() (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(p.listen)
	if err != nil || at.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("--listen: %q is not address:port", p.listen)
	}
	return at, nil
}

func (p *probePod) run(ctx context.Context, stdout io.Writer) error {
	log, err := process.NewLogger(p.logging, stdout)
	if err != nil {
		return err
	}
	at, err := p.at()
	if err != nil {
		return err
	}
	return probe.NewPod(probe.PodConfig{Listen: at, Logger: log}).Run(ctx)
}
