//go:build !nokubernetes

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/install"
	"github.com/causeway-mesh/causeway/causeway/release"
	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/process"
)

// installFlags are those of all commands that change what is installed.
type installFlags struct {
	release string
	timeout time.Duration
	dryRun  bool
	given   release.Given
	images  imageFlags
}

// lookFlags are those of a command that changes nothing.
func (i *installFlags) lookFlags(f *pflag.FlagSet) {
	f.StringVar(&i.release, "release", "causeway", "`name` of the release, as helm list shows it")
	f.DurationVar(&i.timeout, "timeout", 5*time.Minute, "how long each wait may take")
}

func (i *installFlags) flags(f *pflag.FlagSet) {
	i.lookFlags(f)
	f.BoolVar(&i.dryRun, "dry-run", false, "change nothing: only check, and show what would be applied")
}

func (i *installFlags) valueFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&i.given.Files, "values", "f", nil, "YAML `file` with values of the chart, may be repeated")
	f.StringArrayVar(&i.given.Set, "set", nil, "`key=value` of the chart, as gateway.type=NodePort, may be repeated")
	i.images.flags(f)
}

// values returns what the flags say, those of the images with it.
func (i *installFlags) values() (map[string]any, error) {
	values, err := i.given.Values()
	if err != nil {
		return nil, err
	}
	images, err := i.images.values()
	if err != nil {
		return nil, err
	}
	return release.Merge(values, images), nil
}

// valuesFor returns the values of one of several clusters: those for all, and those
// that begin with its name and a colon.
func (i *installFlags) valuesFor(cluster string) (map[string]any, error) {
	own := *i
	own.given = release.Given{Files: ownOf(i.given.Files, cluster), Set: ownOf(i.given.Set, cluster)}
	return own.values()
}

// ownOf leaves out what is for other clusters, and puts what is for this one last.
func ownOf(texts []string, name string) []string {
	var all, own []string
	for _, text := range texts {
		whose, rest, ok := strings.Cut(text, ":")
		switch {
		case !ok || cluster.ValidateName(whose) != nil:
			all = append(all, text)
		case whose == name:
			own = append(own, rest)
		}
	}
	return append(all, own...)
}

// installer returns what works on a cluster; what it says goes to the output.
func (i *installFlags) installer(cmd *cobra.Command, opts *options, c *access.Cluster, show func(install.Event)) (*install.Installer, error) {
	return install.New(install.Config{
		Cluster: c, Kubeconfig: opts.kubernetes.kubeconfig, Release: i.release, Version: process.Version(), Timeout: i.timeout,
		Show: show, Ask: askCluster, Unready: notReady, Out: cmd.OutOrStdout(), Logger: slog.New(slog.DiscardHandler),
	})
}

func askCluster(ctx context.Context, c *access.Cluster) (*adminpb.StatusResponse, error) {
	conn, err := dialCluster(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return ask(ctx, adminpb.NewAdminClient(conn).Status, &adminpb.StatusRequest{})
}

// showEvents returns what shows events, several at the same time.
func showEvents(out io.Writer, opts *options) func(install.Event) {
	var mu sync.Mutex
	return func(e install.Event) {
		mu.Lock()
		defer mu.Unlock()
		if opts.output == "json" {
			_ = json.NewEncoder(out).Encode(step{Cluster: e.Cluster, Step: e.Text, Warning: e.Kind == install.Note, Kind: string(e.Kind)})
			return
		}
		mark := map[install.Kind]string{install.Done: "ok", install.Note: "!!", install.Waiting: "..", install.Change: "  "}[e.Kind]
		who := ""
		if e.Cluster != "" {
			who = e.Cluster + ": "
		}
		fmt.Fprintf(out, "%s  %s%s\n", mark, who, e.Text)
	}
}

// reportError makes an error a line of JSON besides, as for other steps.
func reportError(cmd *cobra.Command, opts *options, err error) error {
	err = brokenOff(cmd.Context(), err)
	if err != nil && opts.output == "json" {
		_ = json.NewEncoder(cmd.OutOrStdout()).Encode(step{Error: err.Error()})
	}
	return err
}

// nameOf makes a cluster's name of a context's: kind-east is east.
func nameOf(context string) string {
	name := strings.ToLower(context)
	// What clouds make of a name ends with it: arn:aws:eks:...:cluster/east, gke_project_zone_east.
	for _, before := range []string{"/", "@", ":"} {
		if n := strings.LastIndex(name, before); n >= 0 && n < len(name)-1 {
			name = name[n+1:]
		}
	}
	if parts := strings.Split(name, "_"); len(parts) == 4 && parts[0] == "gke" {
		name = parts[3]
	}
	for _, before := range []string{"kind-", "k3d-"} {
		name = strings.TrimPrefix(name, before)
	}
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	if len(clean) > maxName {
		clean = clean[:maxName]
	}
	return strings.Trim(clean, "-")
}

// maxName is how long a cluster's name may be.
const maxName = 32
