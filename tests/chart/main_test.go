// Package chart tests deploy/chart as users meet it: rendered by Helm's own code,
// checked by a real kube-apiserver, and installed with our images on a node.
package chart

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	helm "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/deploy/chart"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// namespace and release are those of the command line.
const (
	namespace = "causeway-system"
	release   = "causeway"
)

var shared = kubelab.Shared{Config: kubelab.Config{Controllers: kubelab.ServiceControllers()}}

func TestMain(m *testing.M) { goleak.VerifyTestMain(shared.Around(m)) }

// load returns the chart as programs have it.
func load(t testing.TB) *helm.Chart {
	t.Helper()
	var files []*archive.BufferedFile
	err := fs.WalkDir(chart.Files(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(chart.Files(), name)
		files = append(files, &archive.BufferedFile{Name: name, Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		t.Fatal(err)
	}
	// What the command line puts there may be no label: that of a changed tree.
	c.Metadata.AppVersion = "v0.0.0-20260101000000-0123456789ab+dirty"
	return c
}

// least are the values that have to be given.
const least = `
cluster: {name: east, id: 1}
images: {apiServer: "localhost/causeway/clustermesh-apiserver:1", nodeAgent: "localhost/causeway/node-agent:1"}
`

// values returns those of all texts; the later ones win.
func values(t testing.TB, texts ...string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, text := range texts {
		var some map[string]any
		if err := yaml.Unmarshal([]byte(text), &some); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		merge(all, some)
	}
	return all
}

func merge(into, from map[string]any) {
	for key, value := range from {
		old, both := into[key].(map[string]any)
		if some, ok := value.(map[string]any); ok && both {
			merge(old, some)
			continue
		}
		into[key] = value
	}
}

// rendered is a chart with its values in place.
type rendered struct {
	manifest, notes string
}

// render does what helm install does before it asks the cluster anything.
func render(t testing.TB, values map[string]any) (rendered, error) {
	t.Helper()
	c := load(t)
	options := common.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, values, options, common.DefaultCapabilities)
	if err != nil {
		return rendered{}, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return rendered{}, err
	}
	var r rendered
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case path.Base(name) == "NOTES.txt":
			r.notes = files[name]
		case strings.TrimSpace(files[name]) != "":
			r.manifest += "---\n# " + name + "\n" + files[name] + "\n"
		}
	}
	return r, nil
}

// mustRender renders values that are right.
func mustRender(t testing.TB, texts ...string) rendered {
	t.Helper()
	r, err := render(t, values(t, append([]string{least}, texts...)...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// objects returns the documents of a manifest.
func (r rendered) objects(t testing.TB) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, text := range strings.Split(r.manifest, "\n---\n") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(object) > 0 {
			all = append(all, object)
		}
	}
	return all
}
