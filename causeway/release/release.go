// Package release keeps the Helm release of Causeway's chart in a cluster. It is
// the only place that knows Helm's library; `helm list` shows what it does, and who
// has helm can go on with that.
package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	v1 "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"

	"github.com/causeway-mesh/causeway/causeway/access"
	deploychart "github.com/causeway-mesh/causeway/deploy/chart"
)

// maxHistory is how many revisions are kept to roll back to.
const maxHistory = 10

// Config says which release, and of what.
type Config struct {
	Cluster *access.Cluster
	// Kubeconfig is the file by which the cluster was opened, as of access.Config.
	Kubeconfig string
	// Name is the release's.
	Name string
	// Version is the command line's, which the chart is given.
	Version string
	// Logger gets what Helm says of its own accord.
	Logger *slog.Logger
}

// Manager keeps a release in one cluster. It is used by one goroutine at a time.
type Manager struct {
	config  *action.Configuration
	name    string
	space   string
	version string
}

// New asks nothing yet.
func New(cfg Config) (*Manager, error) {
	flags := genericclioptions.NewConfigFlags(false)
	flags.Context, flags.Namespace = &cfg.Cluster.Context, &cfg.Cluster.Namespace
	if cfg.Kubeconfig != "" {
		flags.KubeConfig = &cfg.Kubeconfig
	}
	known := cfg.Cluster.Rest
	flags.WrapConfigFn = func(c *rest.Config) *rest.Config {
		c.QPS, c.Burst, c.UserAgent, c.WarningHandler = known.QPS, known.Burst, known.UserAgent, rest.NoWarnings{}
		return c
	}
	config := action.NewConfiguration(action.ConfigurationSetLogger(cfg.Logger.Handler()))
	if err := config.Init(flags, cfg.Cluster.Namespace, ""); err != nil {
		return nil, fmt.Errorf("context %s: %w", cfg.Cluster.Context, err)
	}
	config.Releases.MaxHistory = maxHistory
	return &Manager{config: config, name: cfg.Name, space: cfg.Cluster.Namespace, version: cfg.Version}, nil
}

// State is what Helm keeps of the release.
type State struct {
	// Status is Helm's word: "deployed".
	Status string
	// Version is that of the command line that made it.
	Version string
	// Values are those that somebody gave.
	Values   map[string]any
	Manifest string
	Revision int
	Since    time.Time
	// Deployed says that the last change was applied whole.
	Deployed bool
	// Pending says that somebody began to change it and has not said that this ended.
	Pending bool
	// Leaving says that somebody began to take it away.
	Leaving bool
}

// Current returns the release as it is, nil where there is none.
func (m *Manager) Current() (*State, error) {
	last, err := m.last()
	if err != nil || last == nil {
		return nil, err
	}
	status := last.Info.Status
	s := &State{
		Status: status.String(), Values: last.Config, Manifest: last.Manifest, Revision: last.Version, Since: last.Info.LastDeployed,
		Deployed: status == common.StatusDeployed, Pending: status.IsPending(), Leaving: status == common.StatusUninstalling || status == common.StatusUninstalled,
	}
	if last.Chart != nil && last.Chart.Metadata != nil {
		s.Version = last.Chart.Metadata.AppVersion
	}
	return s, nil
}

func (m *Manager) last() (*v1.Release, error) {
	found, err := m.config.Releases.Last(m.name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the release %s in %s: %w", m.name, m.space, err)
	}
	last, ok := found.(*v1.Release)
	if !ok {
		return nil, fmt.Errorf("the release %s in %s is of a kind that this program does not know", m.name, m.space)
	}
	return last, nil
}

// Plan is what a release would become.
type Plan struct {
	// Install says that there is no release yet.
	Install bool
	// Changes are what would change in the cluster's objects, in words.
	Changes []string
	// Manifest is all that would be there.
	Manifest string
	values   map[string]any
}

// Plan renders the chart with these values, which are all that count beside the
// chart's own, checks it with the API server, and compares. Nothing is changed.
func (m *Manager) Plan(ctx context.Context, values map[string]any) (*Plan, error) {
	c, err := m.chart()
	if err != nil {
		return nil, err
	}
	last, err := m.last()
	if err != nil {
		return nil, err
	}
	plan := &Plan{Install: last == nil, values: values}
	var rendered any
	if plan.Install {
		install := m.install()
		install.DryRunStrategy = action.DryRunServer
		rendered, err = install.RunWithContext(ctx, c, values)
	} else {
		upgrade := m.upgrade()
		upgrade.DryRunStrategy = action.DryRunServer
		rendered, err = upgrade.RunWithContext(ctx, m.name, c, values)
	}
	if err != nil {
		return nil, plain(err)
	}
	plan.Manifest = rendered.(*v1.Release).Manifest //nolint:errcheck,forcetypeassert // of this chart's version
	before := ""
	if last != nil {
		before = last.Manifest
	}
	if plan.Changes, err = compare(before, plan.Manifest); err != nil {
		return nil, err
	}
	return plan, nil
}

// Missing returns which objects of a manifest are not in the cluster.
func (m *Manager) Missing(manifest string) ([]string, error) {
	list, err := m.config.KubeClient.Build(bytes.NewBufferString(manifest), false)
	if err != nil {
		return nil, fmt.Errorf("read the release's manifest: %w", err)
	}
	var missing []string
	for _, info := range list {
		err := info.Get()
		switch {
		case apierrors.IsNotFound(err):
			missing = append(missing, info.Mapping.GroupVersionKind.Kind+" "+info.Name)
		case err != nil:
			return nil, fmt.Errorf("look at %s %s: %w", info.Mapping.GroupVersionKind.Kind, info.Name, err)
		}
	}
	return missing, nil
}

// Apply brings the release to what a plan says, and returns once Kubernetes has
// taken all objects. It is not broken off in the middle: an end of ctx is looked at
// before it begins.
func (m *Manager) Apply(ctx context.Context, plan *Plan) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	c, err := m.chart()
	if err != nil {
		return err
	}
	if plan.Install {
		_, err = m.install().RunWithContext(ctx, c, plan.values)
	} else {
		_, err = m.upgrade().RunWithContext(ctx, m.name, c, plan.values)
	}
	return plain(err)
}

// Release waits are our own: Helm's say nothing until they are over.

func (m *Manager) install() *action.Install {
	install := action.NewInstall(m.config)
	install.ReleaseName, install.Namespace = m.name, m.space
	install.WaitStrategy = kube.HookOnlyStrategy
	return install
}

func (m *Manager) upgrade() *action.Upgrade {
	upgrade := action.NewUpgrade(m.config)
	upgrade.Namespace, upgrade.MaxHistory = m.space, maxHistory
	upgrade.WaitStrategy = kube.HookOnlyStrategy
	upgrade.ResetValues = true // they are given whole
	return upgrade
}

// GiveUp marks a change that was broken off as one that did not succeed, so that the
// next one may begin.
func (m *Manager) GiveUp() error {
	last, err := m.last()
	if err != nil || last == nil || !last.Info.Status.IsPending() {
		return err
	}
	last.SetStatus(common.StatusFailed, "broken off before it was applied whole")
	if err := m.config.Releases.Update(last); err != nil {
		return fmt.Errorf("mark the change that was broken off: %w", err)
	}
	return nil
}

// Remove takes the release and its objects away and returns once they are gone.
func (m *Manager) Remove(timeout time.Duration) error {
	remove := action.NewUninstall(m.config)
	remove.IgnoreNotFound, remove.WaitStrategy, remove.Timeout = true, kube.LegacyStrategy, timeout
	remove.DeletionPropagation = "foreground"
	_, err := remove.Run(m.name)
	return plain(err)
}

// strict is what Helm takes as a chart's version.
var strict = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// chart returns the one that is built in, anew each time: Helm changes it.
func (m *Manager) chart() (*chart.Chart, error) {
	var files []*archive.BufferedFile
	tree := deploychart.Files()
	err := fs.WalkDir(tree, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, path)
		files = append(files, &archive.BufferedFile{Name: path, Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the built-in chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("read the built-in chart: %w", err)
	}
	if v := strings.TrimPrefix(m.version, "v"); strict.MatchString(v) {
		c.Metadata.Version = v
	}
	c.Metadata.AppVersion = m.version
	return c, nil
}

// noise is what Helm says around what is wrong with a value.
var noise = regexp.MustCompile(`execution error at \([^)]*\): |^.*error calling fail: `)

// plain leaves out where in a template something was refused.
func plain(err error) error {
	if err == nil {
		return nil
	}
	if text := noise.ReplaceAllString(err.Error(), ""); text != err.Error() {
		return errors.New(text)
	}
	return err
}
