// Package install puts Causeway into Kubernetes clusters, changes it there, and
// takes it away without a trace. What it does can be broken off at any moment and
// done again: each step looks first at what is there.
package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/release"
	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
)

// Kind is what an event is about.
type Kind string

// The kinds of events.
const (
	// Done is a step that succeeded.
	Done Kind = "done"
	// Note is something that a person should know, or is left to do.
	Note Kind = "note"
	// Waiting says what a step waits for, after a while.
	Waiting Kind = "waiting"
	// Change is one thing that is going to be different.
	Change Kind = "change"
)

// Event is one line of progress.
type Event struct {
	// Cluster is the one that it is about; empty for all.
	Cluster string
	Kind    Kind
	Text    string
}

// pollStep is how often is looked at what is waited for; patience is how long
// nothing is said.
const (
	pollStep = time.Second
	patience = 3 * time.Second
)

// Installer works on one cluster. It is used by one goroutine at a time.
type Installer struct {
	Cluster *access.Cluster
	// Name is by what events call the cluster.
	Name     string
	releases *release.Manager
	cfg      Config
}

// Config says how.
type Config struct {
	Cluster    *access.Cluster
	Kubeconfig string
	// Release is its name to Helm.
	Release string
	// Version is the command line's.
	Version string
	// Timeout bounds each wait.
	Timeout time.Duration
	// Show is told each event, by several goroutines at the same time.
	Show func(Event)
	// Ask asks the cluster's API server how it is.
	Ask func(context.Context, *access.Cluster) (*adminpb.StatusResponse, error)
	// Unready says what of an answer is not ready.
	Unready func(*adminpb.StatusResponse) []string
	// Out gets manifests.
	Out io.Writer
	// Logger gets what libraries say of their own accord.
	Logger *slog.Logger
}

// New asks nothing yet.
func New(cfg Config) (*Installer, error) {
	releases, err := release.New(release.Config{
		Cluster: cfg.Cluster, Kubeconfig: cfg.Kubeconfig, Name: cfg.Release, Version: cfg.Version, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Installer{Cluster: cfg.Cluster, Name: cfg.Cluster.Context, releases: releases, cfg: cfg}, nil
}

// Current returns the release as it is, nil where there is none.
func (i *Installer) Current() (*release.State, error) {
	state, err := i.releases.Current()
	if err != nil {
		return nil, i.Cluster.Explain(err)
	}
	return state, nil
}

func (i *Installer) say(kind Kind, format string, args ...any) {
	i.cfg.Show(Event{Cluster: i.Name, Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// Options are what is asked of one change.
type Options struct {
	// Values are laid over those that the release has.
	Values map[string]any
	// DryRun only says, and writes the manifest.
	DryRun bool
	// Manifest writes with DryRun also what would be there.
	Manifest bool
}

// Install brings the release to its values, those that it has with o.Values laid
// over them, installs it where there is none, and waits until it works. What is as it
// should be is left alone.
func (i *Installer) Install(ctx context.Context, o Options) error {
	state, err := i.settle(ctx, o.DryRun)
	if err != nil {
		return err
	}
	values, err := i.wanted(ctx, state, o.Values)
	if err != nil {
		return err
	}
	plan, err := i.plan(ctx, values)
	if err != nil {
		return err
	}
	if o.DryRun {
		return i.showPlan(state, plan, o.Manifest)
	}
	changed, err := i.apply(ctx, state, plan)
	if err != nil {
		return err
	}
	if err := i.unpark(ctx); err != nil {
		return err
	}
	if !changed {
		i.say(Done, "is as it should be: release %s, version %s", i.cfg.Release, i.cfg.Version)
	}
	if err := i.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w; or give other values to `causeway upgrade --context %s`, as --image: what serves stays meanwhile", err, i.Cluster.Context)
	}
	return nil
}

// apply reports whether anything had to be changed.
func (i *Installer) apply(ctx context.Context, state *release.State, plan *release.Plan) (bool, error) {
	var missing []string
	if state != nil && state.Deployed && len(plan.Changes) == 0 && state.Version == i.cfg.Version {
		var err error
		if missing, err = i.releases.Missing(plan.Manifest); err != nil {
			return false, i.Cluster.Explain(err)
		}
		if len(missing) == 0 {
			return false, nil
		}
	}
	if err := i.ensureNamespace(ctx); err != nil {
		return false, err
	}
	switch {
	case state == nil:
	case len(missing) > 0:
		i.say(Note, "somebody removed %s: it is put back", strings.Join(missing, ", "))
	default:
		for _, line := range plan.Changes {
			i.say(Change, "%s", line)
		}
	}
	if err := i.releases.Apply(ctx, plan); err != nil {
		return false, fmt.Errorf("%s: %w; what was applied stays: run the same command again when that is solved", i.Name, i.Cluster.Explain(err))
	}
	if state == nil {
		i.say(Done, "release %s of version %s is in namespace %s", i.cfg.Release, i.cfg.Version, i.Cluster.Namespace)
		if err := i.dropKept(ctx); err != nil {
			return false, err
		}
	} else {
		i.say(Done, "release %s is changed to version %s", i.cfg.Release, i.cfg.Version)
	}
	return true, nil
}

// brokenOff is how long a change that nobody finished is somebody else's at work:
// applying takes seconds.
const brokenOff = 30 * time.Second

// settle returns the release when nobody is at work on it.
func (i *Installer) settle(ctx context.Context, only bool) (*release.State, error) {
	state, err := i.Current()
	if err != nil || state == nil {
		return nil, err
	}
	if state.Leaving {
		return nil, fmt.Errorf("%s: taking Causeway away was begun and not finished: `causeway uninstall --context %s` does that", i.Name, i.Cluster.Context)
	}
	if !state.Pending || only {
		return state, nil
	}
	if wait := brokenOff - time.Since(state.Since); wait > 0 {
		i.say(Waiting, "another command changes the release since %s ago, or was broken off: waiting %s to see which", time.Since(state.Since).Round(time.Second), wait.Round(time.Second))
		err := i.until(ctx, wait+pollStep, "the other command's end", func(context.Context) (bool, string, error) {
			state, err = i.Current()
			return err == nil && (state == nil || !state.Pending || time.Since(state.Since) > brokenOff), "it is at work", err
		})
		if err != nil {
			return nil, err
		}
	}
	if state == nil || !state.Pending {
		return state, nil
	}
	if err := i.releases.GiveUp(); err != nil {
		return nil, err
	}
	i.say(Note, "an earlier command was broken off while it applied the release: going on from there")
	return i.Current()
}

func (i *Installer) showPlan(state *release.State, plan *release.Plan, manifest bool) error {
	switch {
	case state == nil:
		i.say(Note, "would install release %s of version %s into namespace %s:", i.cfg.Release, i.cfg.Version, i.Cluster.Namespace)
	case len(plan.Changes) == 0:
		i.say(Note, "nothing would change but the version, which is %s and would be %s", state.Version, i.cfg.Version)
	default:
		i.say(Note, "would change release %s from version %s to %s:", i.cfg.Release, state.Version, i.cfg.Version)
	}
	for _, line := range plan.Changes {
		i.say(Change, "%s", line)
	}
	if !manifest {
		return nil
	}
	_, err := fmt.Fprintln(i.cfg.Out, strings.TrimSpace(plan.Manifest))
	return err
}

// errStopped says that a wait ended because the caller did.
var errStopped = errors.New("broken off")

// until returns once done does, or with the last reason and what to do when the
// time is over. Reasons are shown when they have lasted a while, and when they change.
func (i *Installer) until(ctx context.Context, timeout time.Duration, what string, done func(context.Context) (bool, string, error)) error {
	ticks := time.NewTicker(pollStep)
	defer ticks.Stop()
	began, said, last := time.Now(), "", ""
	for {
		ok, why, err := done(ctx)
		if ok {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			why = err.Error()
		}
		if ctx.Err() == nil {
			last = why
		}
		if last != said && time.Since(began) > patience {
			i.say(Waiting, "%s: %s (%s)", what, last, time.Since(began).Round(time.Second))
			said = last
		}
		if time.Since(began) > timeout {
			return fmt.Errorf("%s: no %s within %s: %s; run the same command again when that is solved, with --timeout for more time", i.Name, what, timeout, last)
		}
		select {
		case <-ctx.Done():
			if last != "" {
				last = ": " + last
			}
			return fmt.Errorf("%s: %w while waiting for %s%s", i.Name, errStopped, what, last)
		case <-ticks.C:
		}
	}
}
