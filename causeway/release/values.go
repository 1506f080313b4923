package release

import (
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/strvals"
)

// Given are values as a user gives them.
type Given struct {
	// Files are YAML, later ones win.
	Files []string
	// Set are "a.b=c", which win over files.
	Set []string
}

// Values returns what was given, as one tree.
func (g Given) Values() (map[string]any, error) {
	all := map[string]any{}
	for _, file := range g.Files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--values: %w", err)
		}
		some := map[string]any{}
		if err := yaml.Unmarshal(text, &some); err != nil {
			return nil, fmt.Errorf("--values %s: %w", file, err)
		}
		all = Merge(all, some)
	}
	for _, set := range g.Set {
		if err := strvals.ParseInto(set, all); err != nil {
			return nil, fmt.Errorf("--set %s: %w", set, err)
		}
	}
	return all, nil
}

// Merge returns base with over on top of it; neither is changed.
func Merge(base, over map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(over))
	for key, value := range base {
		out[key] = value
	}
	for key, value := range over {
		inner, isMap := value.(map[string]any)
		below, wasMap := out[key].(map[string]any)
		switch {
		case isMap && wasMap:
			out[key] = Merge(below, inner)
		case isMap:
			out[key] = Merge(nil, inner)
		default:
			out[key] = value
		}
	}
	return out
}

// At returns the value at a path, nil where there is none.
func At(values map[string]any, path ...string) any {
	var value any = values
	for _, key := range path {
		inner, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = inner[key]
	}
	return value
}

// Put returns the tree of one value at a path.
func Put(value any, path ...string) map[string]any {
	for i := len(path) - 1; i > 0; i-- {
		value = map[string]any{path[i]: value}
	}
	return map[string]any{path[0]: value}
}
