package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// lineError is what is wrong with a manifest, and where.
type lineError struct {
	line    int // 1 and up
	message string
	// syntax says that the text is no YAML or JSON at all.
	syntax bool
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.message) }

// earlier returns the one of two errors that is at the lower line.
func earlier(a, b error) error {
	var x, y *lineError
	if errors.As(a, &x) && errors.As(b, &y) && x.line < y.line {
		return a
	}
	return b
}

// header is what every object has, and a List.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items json.RawMessage `json:"items"`
}

// manifest is what is read of an object.
type manifest interface{ object() Object }

// form is how a kind is written.
type form struct {
	group      string // its version is v1
	namespaced bool
	empty      func() manifest
}

func (f form) apiVersion() string { return strings.TrimPrefix(f.group+"/v1", "/") }

func formOf(kind Kind) (form, bool) {
	switch kind {
	case KindNamespace:
		return form{empty: func() manifest { return &namespaceManifest{} }}, true
	case KindNode:
		return form{empty: func() manifest { return &nodeManifest{} }}, true
	case KindPod:
		return form{namespaced: true, empty: func() manifest { return &podManifest{} }}, true
	case KindService:
		return form{namespaced: true, empty: func() manifest { return &serviceManifest{} }}, true
	case KindEndpointSlice:
		empty := func() manifest { return &endpointSliceManifest{} }
		return form{group: "discovery.k8s.io", namespaced: true, empty: empty}, true
	}
	return form{}, false
}

// listOf says whether a kind is a List, and what its items are that do not say
// it themselves: a PodList's are Pods, a List's say it.
func listOf(apiVersion, kind string) (itemVersion, itemKind string, ok bool) {
	if kind == "List" && apiVersion == "v1" {
		return "", "", true
	}
	item, isList := strings.CutSuffix(kind, "List")
	f, known := formOf(Kind(item))
	return apiVersion, item, isList && known && apiVersion != "" && groupOf(apiVersion) == f.group
}

func groupOf(apiVersion string) string {
	group, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return group
}

// maxListDepth is how deep Lists may stand in Lists; nobody writes even one.
const maxListDepth = 4

// decode calls fn with each object of a chunk and its line counted from the
// chunk's; with nil for one of another kind. The error is a *lineError.
func decode(c chunk, fn func(o Object, line int)) error {
	raw := c.text
	if !c.json {
		var err error
		if raw, err = yaml.YAMLToJSON(c.text); err != nil {
			return yamlError(c, err)
		}
	}
	if c.item {
		var entries []json.RawMessage
		if err := unmarshal(raw, &entries); err != nil || len(entries) != 1 {
			return &lineError{line: c.line, message: "this is not one item of a List", syntax: true}
		}
		raw = entries[0]
	}
	// Errors and objects are at the first line that says anything.
	offset := leadingLines(c.text)
	err := decodeObject(raw, c.apiVersion, c.kind, 0, func(o Object) { fn(o, offset) })
	if err != nil {
		return &lineError{line: c.line + offset, message: err.Error()}
	}
	return nil
}

// decodeObject decodes an object, or a List's items. The version and kind are
// those of an object that names none.
func decodeObject(raw []byte, apiVersion, kind string, depth int, fn func(Object)) error {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	if raw[0] != '{' {
		return errors.New("this is not an object: write apiVersion, kind and metadata")
	}
	h := header{APIVersion: apiVersion, Kind: kind}
	if err := unmarshal(raw, &h); err != nil {
		return describe(err)
	}
	if h.Kind == "" {
		return errors.New("the object has no kind")
	}
	if h.APIVersion == "" {
		return fmt.Errorf("the %s has no apiVersion", h.Kind)
	}
	if itemVersion, itemKind, isList := listOf(h.APIVersion, h.Kind); isList {
		return decodeItems(h.Items, itemVersion, itemKind, depth+1, fn)
	}
	f, known := formOf(Kind(h.Kind))
	if !known || groupOf(h.APIVersion) != f.group {
		fn(nil)
		return nil
	}
	return decodeKnown(raw, &h, f, fn)
}

func decodeItems(raw json.RawMessage, apiVersion, kind string, depth int, fn func(Object)) error {
	if depth > maxListDepth {
		return fmt.Errorf("more than %d Lists stand in each other", maxListDepth)
	}
	var items []json.RawMessage
	if len(raw) > 0 {
		if err := unmarshal(raw, &items); err != nil {
			return describe(err)
		}
	}
	for i, item := range items {
		if err := decodeObject(item, apiVersion, kind, depth, fn); err != nil {
			return fmt.Errorf("item %d of the List: %w", i+1, err)
		}
	}
	return nil
}

func decodeKnown(raw []byte, h *header, f form, fn func(Object)) error {
	if h.APIVersion != f.apiVersion() {
		return fmt.Errorf("%s of %s is not read: write it as %s", h.Kind, h.APIVersion, f.apiVersion())
	}
	name := h.Metadata.Name
	if name == "" {
		return fmt.Errorf("the %s has no metadata.name", h.Kind)
	}
	if bad := validation.IsDNS1123Subdomain(name); len(bad) > 0 {
		return fmt.Errorf("%s %q: a name may hold lower-case letters, digits, '-' and '.', at most 253", h.Kind, name)
	}
	if ns := h.Metadata.Namespace; f.namespaced && ns != "" && len(validation.IsDNS1123Label(ns)) > 0 {
		return fmt.Errorf("%s %q: namespace %q may hold lower-case letters, digits and '-', at most 63", h.Kind, name, ns)
	}
	m := f.empty()
	if err := unmarshal(raw, m); err != nil {
		return fmt.Errorf("%s %q: %w", h.Kind, name, describe(err))
	}
	o := m.object()
	if err := check(o); err != nil {
		return fmt.Errorf("%s %q: %w", h.Kind, name, err)
	}
	fn(o)
	return nil
}

// unmarshal reads JSON as an API server does: names of fields are case-sensitive.
func unmarshal(raw []byte, into any) error { return utiljson.Unmarshal(raw, into) }

// describe says in a manifest's words what does not fit into a field.
func describe(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		hint := ""
		if wrong.Type.String() == "string" {
			hint = " (put it in quotes)"
		}
		return fmt.Errorf("%s: a %s stands where a %s is expected%s", wrong.Field, wrong.Value, wrong.Type, hint)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// yamlError turns an error of the YAML parser into one at a line of the file.
func yamlError(c chunk, err error) error {
	// A text that begins like JSON was meant as JSON.
	if first := bytes.TrimLeft(c.text, " \t\r\n"); len(first) > 0 && first[0] == '{' {
		var syntax *json.SyntaxError
		if errors.As(json.Unmarshal(c.text, &json.RawMessage{}), &syntax) {
			upTo := c.text[:min(int(syntax.Offset), len(c.text))]
			return &lineError{line: c.line + bytes.Count(upTo, []byte("\n")), message: syntax.Error(), syntax: true}
		}
	}
	line, message, found := cutLine(err.Error())
	if !found {
		line = leadingLines(c.text) + 1
		message = strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "), "yaml: ")
	}
	// The YAML parser takes more for ends of lines than editors do.
	last := bytes.Count(bytes.TrimRight(c.text, "\n"), []byte("\n")) + 1
	return &lineError{line: c.line + min(max(line, 1), last) - 1, message: message, syntax: true}
}

// cutLine finds "line N: what is wrong" in a message of the YAML parser.
func cutLine(message string) (line int, rest string, found bool) {
	_, after, _ := strings.Cut(message, "line ")
	digits, rest, found := strings.Cut(after, ": ")
	line, err := strconv.Atoi(digits)
	rest, _, _ = strings.Cut(rest, "\n")
	return line, rest, found && err == nil
}

// leadingLines counts the lines before the first that says anything.
func leadingLines(text []byte) int {
	lines := 0
	for at := 0; at < len(text); lines++ {
		end := lineEnd(text, at)
		if !isBlank(text[at:end]) {
			return lines
		}
		at = end
	}
	return 0
}
