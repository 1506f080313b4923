package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
)

// ports is a flag that may be given many times, each a list with commas.
type ports []int

func (p *ports) String() string { return fmt.Sprint([]int(*p)) }

func (p *ports) Set(text string) error {
	for field := range strings.SplitSeq(text, ",") {
		port, err := strconv.ParseUint(field, 10, 16)
		if err != nil {
			return fmt.Errorf("port %q is not a number of 0 to 65535", field)
		}
		*p = append(*p, int(port))
	}
	return nil
}

func serve(ctx context.Context, args []string, _, stderr io.Writer) error {
	cfg := workload.ServerConfig{Log: slog.New(slog.NewTextHandler(stderr, nil))}
	flags := newFlags("serve", "", stderr)
	flags.StringVar(&cfg.Identity.Cluster, "cluster", "", "the cluster's name in answers")
	flags.StringVar(&cfg.Identity.Node, "node", "", "the node's name in answers")
	flags.StringVar(&cfg.Identity.Namespace, "namespace", "", "the pod's namespace in answers")
	flags.StringVar(&cfg.Identity.Pod, "pod", "", "the pod's name in answers")
	flags.StringVar(&cfg.Host, "host", "", "address to listen on; all when empty")
	flags.Var((*ports)(&cfg.TCP), "tcp", "TCP ports, which speak HTTP too")
	flags.Var((*ports)(&cfg.UDP), "udp", "UDP ports")
	ready := flags.Int("ready-fd", 0, "file descriptor to write a byte to and close once all ports are bound; 0 for none")
	if err := parse(flags, args, 0, 0); err != nil {
		return err
	}
	server, err := workload.Listen(cfg)
	if err != nil {
		return err
	}
	if *ready > 0 {
		if err := announce(*ready); err != nil {
			return err
		}
	}
	cfg.Log.Info("serving", "addresses", server.Addrs())
	return server.Run(ctx)
}

func announce(fd int) error {
	file := os.NewFile(uintptr(fd), "ready")
	if _, err := file.Write([]byte{1}); err != nil {
		return fmt.Errorf("write to file descriptor %d: %w", fd, err)
	}
	return file.Close()
}

// maxTargets is how many targets one "echo get" asks.
const maxTargets = 10_000

func get(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("get", "HOST:PORT...", stderr)
	protocol := flags.String("protocol", workload.HTTP, "tcp, udp, http, or mapped: TCP from an IPv6 socket to an IPv4 address")
	count := flags.Int("count", 1, "how many requests of each target, one after the other, each on a new connection")
	size := flags.Int("bytes", 0, "send so many bytes, too, and expect them back; by UDP in one datagram")
	timeout := flags.Duration("timeout", 2*time.Second, "bound of each request")
	if err := parse(flags, args, 1, maxTargets); err != nil {
		return err
	}
	out := json.NewEncoder(stdout)
	failed := false
	for i := range *count * flags.NArg() {
		once, cancel := context.WithTimeout(ctx, *timeout)
		result := workload.Exchange(once, *protocol, flags.Arg(i / *count), *size)
		cancel()
		if ctx.Err() != nil {
			break
		}
		failed = failed || result.Error != ""
		if err := out.Encode(result); err != nil {
			return fmt.Errorf("write an answer: %w", err)
		}
	}
	if failed {
		return errFailed
	}
	return ctx.Err()
}

func first(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg := workload.FirstConfig{}
	flags := newFlags("first", "HOST:PORT...", stderr)
	flags.StringVar(&cfg.Cluster, "cluster", "", "the cluster whose answers count; all when empty")
	flags.DurationVar(&cfg.Every, "every", 10*time.Millisecond, "how often each target is asked")
	flags.DurationVar(&cfg.Timeout, "timeout", time.Second, "bound of each request")
	within := flags.Duration("within", 5*time.Minute, "bound of the whole")
	if err := parse(flags, args, 1, maxTargets); err != nil {
		return err
	}
	cfg.Targets = flags.Args()
	ctx, cancel := context.WithTimeout(ctx, *within)
	defer cancel()
	out := json.NewEncoder(stdout)
	return workload.WaitFirst(ctx, cfg, func(f workload.First) error { return out.Encode(f) })
}

func load(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg := workload.LoadConfig{}
	flags := newFlags("load", "HOST:PORT", stderr)
	flags.StringVar(&cfg.Protocol, "protocol", workload.HTTP, "tcp, udp or http, for new connections")
	flags.IntVar(&cfg.Rate, "rate", 100, "new connections a second")
	flags.IntVar(&cfg.Workers, "workers", 20, "how many may wait for an answer at once")
	flags.IntVar(&cfg.Long, "long", 0, "connections to hold open (TCP)")
	flags.DurationVar(&cfg.LongInterval, "long-interval", 100*time.Millisecond, "how often each of them is used")
	flags.DurationVar(&cfg.Timeout, "timeout", 2*time.Second, "bound of each request")
	flags.DurationVar(&cfg.Duration, "duration", 10*time.Minute, "bound of the whole")
	flags.DurationVar(&cfg.Interval, "interval", 100*time.Millisecond, "how often a report is printed")
	if err := parse(flags, args, 1, 1); err != nil {
		return err
	}
	cfg.Target = flags.Arg(0)
	out := json.NewEncoder(stdout)
	last, err := workload.Load(ctx, cfg, func(r workload.Report) error { return out.Encode(r) })
	if err != nil {
		return err
	}
	if err := out.Encode(last); err != nil {
		return fmt.Errorf("write the last report: %w", err)
	}
	if last.New.Failed+last.Long.Failed > 0 {
		return errFailed
	}
	return nil
}

func newFlags(name, arguments string, stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: echo", name, "[flags]", arguments)
		flags.PrintDefaults()
	}
	return flags
}

// parse returns errUsage, after the reason was printed, unless args are flags
// followed by so many arguments, at least and at most.
func parse(flags *flag.FlagSet, args []string, least, most int) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() < least || flags.NArg() > most {
		fmt.Fprintf(flags.Output(), "echo %s takes %d to %d arguments after its flags, not %d: %q\n",
			flags.Name(), least, most, flags.NArg(), flags.Args())
		flags.Usage()
		return errUsage
	}
	return nil
}
