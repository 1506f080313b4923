package source

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

func TestSplit(t *testing.T) {
	const head = "apiVersion: v1\nkind: List\n"
	tests := map[string]struct {
		text string
		want []string
	}{
		"nothing":              {"", nil},
		"blank":                {"\n \n# c\n---\n", nil},
		"one document":         {"a: b\n", []string{`1 document "a: b\n"`}},
		"no end of line":       {"a: b\n---\nc: d", []string{`1 document "a: b\n"`, `3 document "c: d"`}},
		"a mark in a word":     {"a: b\n---c: d\n", []string{`1 document "a: b\n---c: d\n"`}},
		"a mark in a text":     {"a: |\n  ---\n  b\n", []string{`1 document "a: |\n  ---\n  b\n"`}},
		"end of a document":    {"a: b\n...\n# c\n---\nd: e\n", []string{`1 document "a: b\n"`, `5 document "d: e\n"`}},
		"items":                {head + "items:\n- a: b\n  c: d\n- e: f\n", []string{`4 item "- a: b\n  c: d\n"`, `6 item "- e: f\n"`}},
		"kind after items":     {"apiVersion: v1\nitems:\n- a: b\nkind: List\nmetadata: {}\n", []string{`3 item "- a: b\n"`}},
		"items by themselves":  {head + "items:\n  -\n    a: b\n  - c: d\n", []string{`4 item "  -\n    a: b\n"`, `6 item "  - c: d\n"`}},
		"comments and blanks":  {head + "items:\n# one\n- a: b\n\n# two\n  c: d\n", []string{`5 item "- a: b\n\n# two\n  c: d\n"`}},
		"nested dashes":        {head + "items:\n- a:\n  - b\n  - c\n- d: e\n", []string{`4 item "- a:\n  - b\n  - c\n"`, `7 item "- d: e\n"`}},
		"a text with dashes":   {head + "items:\n- a: |\n    - b\n   # c\n- d: e\n", []string{`4 item "- a: |\n    - b\n   # c\n"`, `7 item "- d: e\n"`}},
		"a list of one kind":   {"apiVersion: v1\nkind: PodList\nitems:\n- a: b\n", []string{`4 item v1 Pod "- a: b\n"`}},
		"no list":              {"apiVersion: v2\nkind: List\nitems:\n- a\n", []string{`1 document "apiVersion: v2\nkind: List\nitems:\n- a\n"`}},
		"another list":         {"apiVersion: v1\nkind: EndpointSliceList\nitems:\n- a\n", []string{`1 document "apiVersion: v1\nkind: EndpointSliceList\nitems:\n- a\n"`}},
		"items twice":          {head + "items:\n- a\nitems:\n- b\n", []string{fmt.Sprintf("1 document %q", head+"items:\n- a\nitems:\n- b\n")}},
		"items in a flow":      {head + "items: [a]\n", []string{fmt.Sprintf("1 document %q", head+"items: [a]\n")}},
		"items of something":   {head + "spec:\n  items:\n  - a\n", []string{fmt.Sprintf("1 document %q", head+"spec:\n  items:\n  - a\n")}},
		"json":                 {`{"a":"b"}`, []string{`1 json "{\"a\":\"b\"}"`}},
		"json items":           {"{\"kind\":\"List\",\"apiVersion\":\"v1\",\n\"items\":[ {} ,\n{\"a\":[]}], \"x\":{\"items\":[1]}}", []string{`2 json "{}"`, `3 json "{\"a\":[]}"`}},
		"json items twice":     {`{"kind":"List","apiVersion":"v1","items":[],"items":[1]}`, []string{`1 json "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[],\"items\":[1]}"`}},
		"json without items":   {`{"kind":"List","apiVersion":"v1","items":null}`, []string{`1 json "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":null}"`}},
		"yaml that looks json": {`{a: b}`, []string{`1 document "{a: b}"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range splitFile([]byte(tt.text)) {
				for _, c := range d.chunks {
					form := "document"
					if c.json {
						form = "json"
					} else if c.item {
						form = "item"
					}
					form = strings.TrimSpace(form + " " + strings.TrimSpace(c.apiVersion+" "+c.kind))
					got = append(got, fmt.Sprintf("%d %s %q", c.line, form, c.text))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("chunks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSplitDumps writes real dumps in other ways that say the same.
func TestSplitDumps(t *testing.T) {
	text := dump(t, "east")
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var want []Object
	c, err := parseWhole(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	c.each(func(o Object, _ int) { want = append(want, o) })
	lines := strings.Split(string(text), "\n")
	inList := false
	for i, line := range lines {
		if inList = line == "items:" || (inList && !strings.HasPrefix(line, "kind:")); inList && line != "items:" {
			lines[i] = "    " + line
		}
	}
	for name, form := range map[string]string{
		"as it is": string(text), "JSON": string(asJSON), "JSON in YAML": "---\n" + string(asJSON) + "\n---\n",
		"indented": strings.Join(lines, "\n"), "carriage returns": strings.ReplaceAll(string(text), "\n", "\r\n"),
	} {
		docs := splitFile([]byte(form))
		if len(docs) != 1 || !docs[0].cut || len(docs[0].chunks) < 30 {
			t.Errorf("%s: not cut into its items", name)
		}
		c, err := parse(t.Context(), []byte(form), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []Object
		c.each(func(o Object, _ int) { got = append(got, o) })
		if !equality.Semantic.DeepEqual(want, got) {
			t.Errorf("%s: %d objects differ from the %d of the dump: %s", name, len(got), len(want), cmp.Diff(want, got))
		}
	}
}
