//go:build !nokubernetes

package main

import (
	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/causeway/install"
	"github.com/causeway-mesh/causeway/causeway/release"
)

func newInstallCommand(opts *options) *cobra.Command {
	var flags installFlags
	var name string
	var id uint32
	cmd := &cobra.Command{
		Use:   "install --context NAME",
		Short: "Put Causeway into a Kubernetes cluster, and wait until it works",
		Long: `Put Causeway into a Kubernetes cluster and wait until it works: the chart that is built
into this program, as a Helm release. Neither helm nor kubectl is needed. Where a release
is there already, it is brought to what the flags say, and what they do not name stays.

What broke off, by Ctrl-C, a lost connection or --timeout, is finished by the same command.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := opts.kubernetes.open("")
			if err != nil {
				return err
			}
			values, err := flags.values()
			if err != nil {
				return err
			}
			if name != "" {
				values = release.Merge(values, release.Put(name, "cluster", "name"))
			}
			if id != 0 {
				values = release.Merge(values, release.Put(int(id), "cluster", "id"))
			}
			i, err := flags.installer(cmd, opts, c, showEvents(cmd.OutOrStdout(), opts))
			if err != nil {
				return err
			}
			if err = i.MayInstall(cmd.Context()); err == nil {
				err = i.Install(cmd.Context(), install.Options{Values: values, DryRun: flags.dryRun, Manifest: flags.dryRun})
			}
			return reportError(cmd, opts, err)
		},
	}
	f := cmd.Flags()
	flags.flags(f)
	flags.valueFlags(f)
	f.StringVar(&name, "cluster-name", "", "the cluster's `name` in the mesh: 1 to 32 characters of a-z, 0-9 and '-'")
	f.Uint32Var(&id, "cluster-id", 0, "its `number`, 1 to 255, its own in the mesh")
	return cmd
}
