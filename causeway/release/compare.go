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

// object is what is compared of one.
type object struct {
	whole  node
	rights map[right]bool // of a role, which are not in whole
}

// compare says how the objects of two manifests differ, one line for each that is
// new or gone, for each value that changes, for each part that is new or gone, and for
// what a role lets do.
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
			if len(old) > 0 { // else all rights are new, and no news
				lines[len(lines)-1] += mayWords(b.rights)
			}
		case b == nil:
			lines = append(lines, "- "+name)
		default:
			for _, line := range differences("", a.whole, b.whole) {
				lines = append(lines, fmt.Sprintf("~ %s: %s", name, strings.TrimPrefix(line, ".")))
			}
			lines = append(lines, rightLines(name, a.rights, b.rights)...)
		}
	}
	return lines, nil
}

// objects returns what a manifest has of each object, named by kind and name.
func objects(manifest string) (map[string]*object, error) {
	found := map[string]*object{}
	decoder := yaml.NewDecoder(strings.NewReader(manifest))
	for {
		var decoded map[string]any
		err := decoder.Decode(&decoded)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the release's manifest: %w", err)
		}
		if len(decoded) == 0 {
			continue
		}
		meta, _ := decoded["metadata"].(map[string]any)
		name := fmt.Sprintf("%v %v", decoded["kind"], meta["name"])
		if space, ok := meta["namespace"]; ok {
			name = fmt.Sprintf("%v %v/%v", decoded["kind"], space, meta["name"])
		}
		rights := takeRights(decoded)
		found[name] = &object{whole: nodeOf(decoded), rights: rights}
	}
}

// node is a part of an object: a value, or what has parts.
type node struct {
	value string
	parts map[string]node // by ".field" or "[place]"; nil for a value
}

func nodeOf(value any) node {
	n := node{parts: map[string]node{}}
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			n.parts["."+key] = nodeOf(inner)
		}
	case []any:
		for i, inner := range v {
			key := "[" + keyOf(i, inner) + "]"
			if _, taken := n.parts[key]; taken {
				key = fmt.Sprintf("[%s, %d]", keyOf(i, inner), i)
			}
			n.parts[key] = nodeOf(inner)
		}
	default:
		return node{value: fmt.Sprint(v)}
	}
	return n
}

// text is all of a part in a line.
func (n node) text() string {
	if n.parts == nil {
		return n.value
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(n.parts)) {
		text := n.parts[key].text()
		if field, ok := strings.CutPrefix(key, "."); ok {
			text = field + ": " + text
		}
		parts = append(parts, text)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// keyOf returns by what a place in a list is known, whatever comes before it: an
// object's name, a flag's, or the value itself; only what has none of these is counted.
func keyOf(i int, value any) string {
	switch v := value.(type) {
	case map[string]any:
		if v["name"] != nil {
			return fmt.Sprint(v["name"])
		}
		return fmt.Sprint(i)
	case []any:
		return fmt.Sprint(i)
	}
	flag, _, _ := strings.Cut(fmt.Sprint(value), "=")
	if strings.HasPrefix(flag, "--") {
		return flag
	}
	return fmt.Sprint(value)
}

// isVersion reports whether a path is that of a label that changes with every version,
// and says nothing else.
func isVersion(path string) bool {
	return strings.HasSuffix(path, "helm.sh/chart") || strings.HasSuffix(path, "app.kubernetes.io/version")
}

// differences says how what is at a path differs, the smallest part that does.
func differences(path string, old, now node) (lines []string) {
	if old.parts == nil || now.parts == nil {
		if a, b := old.text(), now.text(); a != b {
			lines = append(lines, path+": "+becomes(a, b))
		}
		return lines
	}
	keys := maps.Clone(old.parts)
	maps.Copy(keys, now.parts)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		a, had := old.parts[key]
		b, has := now.parts[key]
		at := path + key
		switch {
		case isVersion(at):
		case !had:
			lines = append(lines, at+": "+short(b.text())+" is new")
		case !has:
			lines = append(lines, at+": "+short(a.text())+" goes")
		default:
			lines = append(lines, differences(at, a, b)...)
		}
	}
	return lines
}

// becomes says how a value changes. Of two long ones the beginning would say nothing.
func becomes(a, b string) string {
	if len(a) > maxValue && len(b) > maxValue {
		return "another text"
	}
	return short(a) + " becomes " + short(b)
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
