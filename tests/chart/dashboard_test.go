package chart

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// names returns the string literals of the daemons' sources, by file.
func names(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, root := range []string{"../../pkg", "../../node-agent", "../../clustermesh-apiserver"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						all[path] = append(all[path], text)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// known reports whether a source names the metric causeway_SUBSYSTEM_NAME: as a
// whole, or NAME alone beside SUBSYSTEM, in the file or as the package.
func known(sources map[string][]string, metric string) bool {
	subsystem, name, _ := strings.Cut(strings.TrimPrefix(metric, "causeway_"), "_")
	for path, texts := range sources {
		if slices.Contains(texts, metric) {
			return true
		}
		place := filepath.Base(filepath.Dir(path)) == subsystem || slices.Contains(texts, subsystem) || slices.Contains(texts, "causeway_"+subsystem+"_")
		if place && slices.Contains(texts, name) {
			return true
		}
	}
	return false
}

// TestDashboard: the dashboard is one for Grafana, and all metrics that it asks
// for are there.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var text string
	for _, object := range mustRender(t, `dashboard: {enabled: true}`).objects(t) {
		if data, ok := object["data"].(map[string]any); ok {
			text = data["causeway.json"].(string)
		}
	}
	var board struct {
		UID    string `json:"uid"`
		Panels []struct {
			Title, Type string
			Targets     []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal([]byte(text), &board); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	if board.UID != "causeway" {
		t.Errorf("uid %q", board.UID)
	}
	sources := names(t)
	name := regexp.MustCompile(`\bcauseway_[a-z0-9_]+`)
	asked := 0
	for _, panel := range board.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			for _, metric := range name.FindAllString(target.Expr, -1) {
				asked++
				if !known(sources, metric) && !known(sources, strings.TrimSuffix(metric, "_bucket")) {
					t.Errorf("panel %q: there is no metric %s", panel.Title, metric)
				}
			}
		}
	}
	if known(sources, "causeway_mesh_nothing") || known(sources, "causeway_nothing_problems") {
		t.Error("metrics that nobody has are known")
	}
	if asked < 20 {
		t.Errorf("asks for %d metrics", asked)
	}
}
