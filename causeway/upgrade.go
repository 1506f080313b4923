//go:build !nokubernetes

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/install"
)

func newUpgradeCommand(opts *options) *cobra.Command {
	var flags installFlags
	cmd := &cobra.Command{
		Use:   "upgrade --context NAME",
		Short: "Bring Causeway in a Kubernetes cluster to this version, or to other values",
		Long: `Bring Causeway in a Kubernetes cluster to the version of this program, or to other
values, and wait until that runs. Values that were given before stay, those of the flags are
laid over them. It shows each value of an object that changes; --dry-run only does that.

While agents and API server are replaced, what serves stays in the nodes' kernels.`,
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
			i, err := flags.installer(cmd, opts, c, showEvents(cmd.OutOrStdout(), opts))
			if err != nil {
				return err
			}
			if err := i.MayInstall(cmd.Context()); err != nil {
				return reportError(cmd, opts, err)
			}
			state, err := i.Current()
			if err == nil && state == nil {
				err = fmt.Errorf("context %s: there is no release %s in namespace %s to upgrade: %w; `causeway install --context %s` does that",
					c.Context, flags.release, c.Namespace, access.ErrNotInstalled, c.Context)
			}
			if err == nil {
				err = i.Install(cmd.Context(), install.Options{Values: values, DryRun: flags.dryRun})
			}
			return reportError(cmd, opts, err)
		},
	}
	flags.flags(cmd.Flags())
	flags.valueFlags(cmd.Flags())
	return cmd
}

func newUninstallCommand(opts *options) *cobra.Command {
	var flags installFlags
	var options install.UninstallOptions
	var contexts []string
	cmd := &cobra.Command{
		Use:   "uninstall --context NAME | --contexts NAME,NAME...",
		Short: "Take Causeway out of a Kubernetes cluster, and out of the kernels of its nodes",
		Long: `Take Causeway out of a Kubernetes cluster. First the agents are stopped, and a pod on each
node takes out of its kernel what they left there; only when all nodes are clean does the rest
go: the release, the Secrets, volumes and objects that were written at run time, and the
namespace, if causeway made it. Several clusters are done at the same time. On the nodes the folder /var/lib/causeway stays.

Other clusters keep it as a peer that does not answer: causeway disconnect puts it out there.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(contexts) == 0 {
				contexts = []string{""}
			}
			var clusters []*install.Installer
			show := showEvents(cmd.OutOrStdout(), opts)
			for _, name := range contexts {
				c, err := opts.kubernetes.open(name)
				if err != nil {
					return err
				}
				i, err := flags.installer(cmd, opts, c, show)
				if err != nil {
					return err
				}
				clusters = append(clusters, i)
			}
			options.DryRun = flags.dryRun
			return reportError(cmd, opts, install.UninstallAll(cmd.Context(), clusters, options))
		},
	}
	f := cmd.Flags()
	flags.flags(f)
	opts.kubernetes.contextsFlag(f, &contexts)
	f.BoolVar(&options.KeepData, "keep-data", false, "leave the volumes and Secrets with the cluster's authority and the numbers of its identities, with its values, by which install or up makes it the same member again")
	f.BoolVar(&options.KeepCRDs, "keep-crds", false, "leave the definition of ClusterPeer and the objects of it")
	f.BoolVar(&options.Force, "force", false, "go on when a node can not be cleaned")
	return cmd
}
