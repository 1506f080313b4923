//go:build nokubernetes

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
)

// The command line without the commands and flags for Kubernetes: tests build it
// often, and what those link takes minutes to compile.

const orContext = ""

var errWithout = errors.New("built without Kubernetes")

type kubernetesFlags struct{}

func (kubernetesFlags) flags(*pflag.FlagSet) {}

func (kubernetesFlags) given() bool { return false }

func (kubernetesFlags) contextsFlag(*pflag.FlagSet, *[]string) {}

func (kubernetesFlags) dial(context.Context) (*grpc.ClientConn, error) {
	return nil, errWithout
}

func (kubernetesFlags) way(string) way { return way{} }

func addKubernetesCommands(*cobra.Command, *options) {}
