// Build makes what tests/kind's clusters are made of, unless it is there; with the
// argument coredns, CoreDNS alone.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/causeway-mesh/causeway/tests/kind"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	made, err := build(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(made)
}

func build(ctx context.Context) (string, error) {
	if len(os.Args) > 1 && os.Args[1] == "coredns" {
		return kind.CoreDNS(ctx, os.Stderr)
	}
	parts, err := kind.Build(ctx, os.Stderr)
	return parts.Node, err
}
