//go:build !nokubernetes

package main

import (
	"cmp"
	"context"
	"net"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/pkg/process"
)

// orContext is the rest of a sentence on how to name a cluster.
const orContext = "; or --context NAME for a cluster that kubectl knows"

// kubernetesFlags name a cluster as kubectl does.
type kubernetesFlags struct {
	context, kubeconfig, namespace string
}

func (k *kubernetesFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&k.context, "context", os.Getenv("CAUSEWAY_CONTEXT"),
		"`name` of the kubeconfig's context of the cluster, in place of --admin-file: its Secret "+access.AdminSecret+" lets you in, and the gateway is reached through the Kubernetes API (default $CAUSEWAY_CONTEXT)")
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "`file` as kubectl reads it (default $KUBECONFIG or ~/.kube/config)")
	f.StringVar(&k.namespace, "namespace", access.Namespace, "`namespace` in which Causeway is, or is to be")
}

func (*kubernetesFlags) contextsFlag(f *pflag.FlagSet, contexts *[]string) {
	f.StringSliceVar(contexts, "contexts", nil, "`names` of the kubeconfig's contexts of the clusters, with commas")
}

// given reports whether a Kubernetes cluster is named.
func (k *kubernetesFlags) given() bool { return k.context != "" || k.kubeconfig != "" }

// open reads the credentials of a context, that of the flags when it is empty.
func (k *kubernetesFlags) open(name string) (*access.Cluster, error) {
	return access.Open(access.Config{
		Kubeconfig: k.kubeconfig, Context: cmp.Or(name, k.context), Namespace: k.namespace, UserAgent: "causeway/" + process.Version(),
	})
}

// dial connects to the gateway in the cluster of the flags.
func (k *kubernetesFlags) dial(ctx context.Context) (*grpc.ClientConn, error) {
	c, err := k.open("")
	if err != nil {
		return nil, err
	}
	return dialCluster(ctx, c)
}

// way is how the cluster of a context is reached; that there is none is said when it
// is used.
func (k *kubernetesFlags) way(name string) way {
	c, err := k.open(name)
	if err != nil {
		return way{name: name, dial: func(context.Context) (*grpc.ClientConn, error) { return nil, err }}
	}
	return wayTo(name, c)
}

func wayTo(name string, c *access.Cluster) way {
	return way{name: name, dial: func(ctx context.Context) (*grpc.ClientConn, error) { return dialCluster(ctx, c) }, addresses: c.Gateway}
}

func dialCluster(ctx context.Context, c *access.Cluster) (*grpc.ClientConn, error) {
	admin, err := c.Admin(ctx)
	if err != nil {
		return nil, err
	}
	// The way is tried once before gRPC is given it: what it says of a way that
	// does not work is hard to read.
	first, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	waiting := make(chan net.Conn, 1)
	waiting <- first
	conn, err := dialAdmin("context "+c.Context, admin, func(ctx context.Context, _ string) (net.Conn, error) {
		select {
		case conn := <-waiting:
			return conn, nil
		default:
			return c.Dial(ctx)
		}
	})
	if err != nil {
		_ = first.Close()
		return nil, err
	}
	conn.Connect() // so that first has an owner
	return conn, nil
}

func addKubernetesCommands(root *cobra.Command, opts *options) {
	root.AddCommand(newPreflightCommand(opts), newUpCommand(opts), newInstallCommand(opts), newUpgradeCommand(opts), newUninstallCommand(opts))
}
