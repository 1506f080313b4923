// Bench measures what Causeway costs. Each benchmark prints a table and writes
// out/bench/<name>.json.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// The names by which the benchmark starts its own parts. They are no commands
// for people.
const (
	partInside  = "connect-inside"
	partServer  = "connect-server"
	partClient  = "connect-client"
	partPeer    = "sync-peer"
	partHostile = "sync-attacker"
	partCarry   = "throughput-inside"
	partSink    = "throughput-sink"
	partSource  = "throughput-source"
	partMesh    = "throughput-mesh"
	partPacket  = "packet-inside"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) == 0 {
		args = []string{""}
	}
	switch args[0] {
	case "connect":
		if _, err := parseConnect(args[1:]); err != nil {
			return err
		}
		return reexec(ctx, append([]string{partInside}, args[1:]...))
	case "sync":
		config, err := parseSync(args[1:])
		if err != nil {
			return err
		}
		return benchSync(ctx, config, stdout)
	case partPeer:
		return servePeer(ctx, args[1:])
	case partHostile:
		return attackAs(ctx, args[1:])
	case partInside:
		config, err := parseConnect(args[1:])
		if err != nil {
			return err
		}
		return connect(ctx, config, stdout)
	case "packet":
		if _, err := parsePacket(args[1:]); err != nil {
			return err
		}
		return reexec(ctx, append([]string{partPacket}, args[1:]...))
	case partPacket:
		config, err := parsePacket(args[1:])
		if err != nil {
			return err
		}
		return benchPacket(ctx, config, stdout)
	case "throughput":
		if _, err := parseThroughput(args[1:]); err != nil {
			return err
		}
		return reexec(ctx, append([]string{partCarry}, args[1:]...))
	case partCarry:
		config, err := parseThroughput(args[1:])
		if err != nil {
			return err
		}
		return throughput(ctx, config, stdout)
	case partSink:
		return sink(stdin, stdout)
	case partSource:
		return source(args[1:], stdin, stdout)
	case partMesh:
		return meshNode(args[1:], stdin, stdout)
	case partServer:
		return serve(ctx, stdin, stdout)
	case partClient:
		return dial(args[1:], stdin, stdout)
	}
	return fmt.Errorf("no benchmark is called %q: there are connect, packet, sync and throughput", args[0])
}

// parseConnect reads the flags of the benchmark connect.
func parseConnect(args []string) (connectConfig, error) {
	config := defaultConnect()
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	flags.IntVar(&config.Rounds, "rounds", config.Rounds, "how often each case is measured")
	flags.IntVar(&config.Connections, "connections", config.Connections, "connections of one measurement")
	flags.IntVar(&config.MaxServices, "max-services", config.MaxServices, "leave out cases with more services")
	flags.StringVar(&config.Dir, "dir", config.Dir, "where the results are written")
	if err := flags.Parse(args); err != nil {
		return config, err
	}
	if config.Rounds < 1 || config.Connections < 1 {
		return config, fmt.Errorf("-rounds %d and -connections %d must be 1 or more", config.Rounds, config.Connections)
	}
	return config, nil
}

// parsePacket reads the flags of the benchmark packet.
func parsePacket(args []string) (packetConfig, error) {
	config := defaultPacket()
	flags := flag.NewFlagSet("packet", flag.ContinueOnError)
	flags.IntVar(&config.Rounds, "rounds", config.Rounds, "how often each case is measured")
	flags.IntVar(&config.Packets, "packets", config.Packets, "packets of one measurement")
	flags.IntVar(&config.Addresses, "addresses", config.Addresses, "addresses of each family, a power of two")
	flags.StringVar(&config.Dir, "dir", config.Dir, "where the results are written")
	if err := flags.Parse(args); err != nil {
		return config, err
	}
	if config.Rounds < 1 || config.Packets < 1 {
		return config, fmt.Errorf("-rounds %d and -packets %d must be 1 or more", config.Rounds, config.Packets)
	}
	if n := config.Addresses; n < 16 || n > 1<<22 || n&(n-1) != 0 {
		return config, fmt.Errorf("-addresses %d must be a power of two from 16 to %d", n, 1<<22)
	}
	return config, nil
}

// parseThroughput reads the flags of the benchmark throughput.
func parseThroughput(args []string) (throughputConfig, error) {
	config := defaultThroughput()
	flags := flag.NewFlagSet("throughput", flag.ContinueOnError)
	flags.IntVar(&config.Rounds, "rounds", config.Rounds, "how often each case is measured")
	flags.DurationVar(&config.Time, "time", config.Time, "how long one measurement takes")
	flags.IntVar(&config.MaxAddresses, "max-addresses", config.MaxAddresses, "leave out cases with more addresses")
	flags.StringVar(&config.Dir, "dir", config.Dir, "where the results are written")
	if err := flags.Parse(args); err != nil {
		return config, err
	}
	if config.Rounds < 1 || config.Time < time.Millisecond {
		return config, fmt.Errorf("-rounds %d and -time %s must be 1 and 1ms or more", config.Rounds, config.Time)
	}
	return config, nil
}
