package release

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxValue is how much of a value is shown, in bytes.
const maxValue = 80

// compare says how the objects of two manifests differ, one line for each that is
// new or gone and for each value that changes.
func compare(before, after string) ([]string, error) {
	old, err := objects(before)
	if err != nil {
		return nil, err
	}
	now, err := objects(after)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for name := range old {
		names[name] = true
	}
	for name := range now {
		names[name] = true
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		switch a, b := old[name], now[name]; {
		case a == nil:
			lines = append(lines, "+ "+name)
		case b == nil:
			lines = append(lines, "- "+name)
		default:
			lines = append(lines, differences(name, a, b)...)
		}
	}
	return lines, nil
}

// objects returns what a manifest has of each object, by path, named by kind and name.
func objects(manifest string) (map[string]map[string]string, error) {
	found := map[string]map[string]string{}
	decoder := yaml.NewDecoder(strings.NewReader(manifest))
	for {
		var object map[string]any
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the release's manifest: %w", err)
		}
		if len(object) == 0 {
			continue
		}
		meta, _ := object["metadata"].(map[string]any)
		name := fmt.Sprintf("%v %v", object["kind"], meta["name"])
		if space, ok := meta["namespace"]; ok {
			name = fmt.Sprintf("%v %v/%v", object["kind"], space, meta["name"])
		}
		found[name] = map[string]string{}
		flatten("", object, found[name])
	}
}

func flatten(path string, value any, into map[string]string) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			flatten(strings.TrimPrefix(path+"."+key, "."), inner, into)
		}
	case []any:
		for i, inner := range v {
			key := fmt.Sprint(i)
			// A place in a list that has a name is known by that.
			if object, ok := inner.(map[string]any); ok && object["name"] != nil {
				key = fmt.Sprint(object["name"])
			} else if flag, ok := inner.(string); ok && strings.HasPrefix(flag, "--") {
				name, _, _ := strings.Cut(flag, "=")
				key = name
			}
			flatten(path+"["+key+"]", inner, into)
		}
	default:
		into[path] = fmt.Sprint(v)
	}
}

// isVersion reports whether a path is that of a label that changes with every version,
// and says nothing else.
func isVersion(path string) bool {
	return strings.HasSuffix(path, "helm.sh/chart") || strings.HasSuffix(path, "app.kubernetes.io/version")
}

func differences(name string, old, now map[string]string) (lines []string) {
	paths := map[string]bool{}
	for path := range old {
		paths[path] = true
	}
	for path := range now {
		paths[path] = true
	}
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		a, had := old[path]
		b, has := now[path]
		switch {
		case a == b && had == has, isVersion(path):
		case !had:
			lines = append(lines, fmt.Sprintf("~ %s: %s: %s is new", name, path, short(b)))
		case !has:
			lines = append(lines, fmt.Sprintf("~ %s: %s: %s goes", name, path, short(a)))
		default:
			lines = append(lines, fmt.Sprintf("~ %s: %s: %s becomes %s", name, path, short(a), short(b)))
		}
	}
	return lines
}

func short(value string) string {
	value = strings.Join(strings.Fields(value), " ")
	if len(value) > maxValue {
		value = strings.ToValidUTF8(value[:maxValue], "") + "..."
	}
	return value
}

// Objects returns the kinds and names of a manifest's objects, sorted.
func Objects(manifest string) ([]string, error) {
	found, err := objects(manifest)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(found)), nil
}
