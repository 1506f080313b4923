// causeway is the command line: it asks a cluster's API server what there is, joins
// clusters, and shows that to a person, or to a program with --output json.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/pkg/process"
)

// errNotReady makes the exit status 1 after all there is to say has been said.
var errNotReady = errors.New("not ready")

func main() {
	if err := process.HideMemory(); err != nil {
		fmt.Fprintln(os.Stderr, "causeway:", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends what is still taken away at once
	err := newCommand(os.Stdout).ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if !errors.Is(err, errNotReady) {
		fmt.Fprintln(os.Stderr, "causeway:", err)
	}
	os.Exit(1)
}

// options are the flags of every command.
type options struct {
	adminFile  string
	kubernetes kubernetesFlags
	// Which of them are flags, and not from the environment.
	adminFileGiven, contextGiven bool
	output                       string
}

func newCommand(out io.Writer) *cobra.Command {
	var opts options
	root := &cobra.Command{
		Use:           "causeway",
		Short:         "Look at the clusters of a Causeway mesh, and join them",
		Version:       process.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			opts.adminFileGiven = cmd.Flags().Changed("admin-file")
			opts.contextGiven = cmd.Flags().Changed("context") || cmd.Flags().Changed("kubeconfig")
			if opts.output != "table" && opts.output != "json" {
				return fmt.Errorf(`--output %q: give "table" or "json"`, opts.output)
			}
			return nil
		},
	}
	root.SetOut(out)
	root.PersistentFlags().StringVar(&opts.adminFile, "admin-file", os.Getenv("CAUSEWAY_ADMIN_FILE"),
		"file that names the cluster and lets you in, <data-dir>/admin.yaml of its API server (default $CAUSEWAY_ADMIN_FILE)")
	root.PersistentFlags().StringVarP(&opts.output, "output", "o", "table", `"table" or "json"`)
	root.AddCommand(newStatusCommand(&opts), newServicesCommand(&opts), newObserveCommand(&opts), newDiagnoseCommand(&opts), newPeersCommand(&opts), newBPFCommand(&opts))
	root.AddCommand(newInviteCommand(&opts), newJoinCommand(&opts), newConnectCommand(&opts), newDisconnectCommand(&opts), newAgentCommand(&opts), newCACommand(&opts))
	opts.kubernetes.flags(root.PersistentFlags())
	addKubernetesCommands(root, &opts)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(newHelpCommand(root))
	tidy(root)
	return root
}
