// Command echo is the workload of the lab: a server that names its pod and
// cluster, and the clients that ask it.
//
//	echo serve --cluster east --namespace shop --pod web-0 --node n1 --tcp 8080 --udp 5353
//	echo get --count 20 10.96.0.7:80
//	echo load --rate 200 --long 50 --duration 60s 10.96.0.7:80
//
// get and load print one line of JSON an answer or report. The exit status is 1
// when a request failed or the command could not run, 2 when the flags are wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// errUsage marks an error of the command line; what is wrong was printed.
var errUsage = errors.New("usage")

// errFailed says that requests failed, which their output tells.
var errFailed = errors.New("requests failed")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case errors.Is(err, errFailed):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	commands := map[string]func(context.Context, []string, io.Writer, io.Writer) error{
		"serve": serve, "get": get, "first": first, "load": load,
	}
	if len(args) > 0 && commands[args[0]] != nil {
		return commands[args[0]](ctx, args[1:], stdout, stderr)
	}
	fmt.Fprintln(stderr, "usage: echo serve|get|first|load [flags]; echo serve --help says more")
	return errUsage
}
