package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"

	"sigs.k8s.io/yaml"
)

// chunk is a piece of a manifest that is parsed on its own: a document, or one
// item of a List. Parsing items one by one makes a reload cost what has changed
// and not what there is, lets all cores take part, and gives errors a line.
type chunk struct {
	text []byte
	// line is where the text begins, 1 and up.
	line int
	json bool
	// item says that the text is a YAML sequence of one entry.
	item bool
	// apiVersion and kind hold for a text that names none: an item of a PodList.
	apiVersion, kind string
}

// document is one document of a file and the chunks that it was cut into: the
// document itself where it is no List, or a List written in some other way than
// the usual one.
type document struct {
	whole  chunk
	chunks []chunk
	cut    bool // chunks are its items
}

// splitFile cuts a file into documents and these into chunks. It parses only
// what is around the items of a List; whatever it does not know for certain it
// leaves whole, for the parser to judge.
func splitFile(content []byte) []document {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	var docs []document
	start, startLine, line := 0, 1, 1
	add := func(end int) {
		if text := content[start:end]; !isBlank(text) {
			docs = append(docs, splitDocument(text, startLine))
		}
	}
	for at := 0; at < len(content); line++ {
		end := lineEnd(content, at)
		if isMark(content[at:end], "---") {
			add(at)
			// The mark stays with what it begins: content may follow it on its line.
			start, startLine = at, line
		} else if isMark(content[at:end], "...") {
			add(at)
			start, startLine = end, line+1
		}
		at = end
	}
	add(len(content))
	return docs
}

func splitDocument(text []byte, line int) document {
	body, skipped := skipMark(text)
	whole := chunk{text: body, line: line + skipped}
	if first := bytes.TrimLeft(body, " \t\r\n"); len(first) > 0 && first[0] == '{' && json.Valid(body) {
		whole.json = true
		if chunks, ok := splitJSON(whole); ok {
			return document{whole: whole, chunks: chunks, cut: true}
		}
	} else if chunks, ok := splitYAML(whole); ok {
		return document{whole: whole, chunks: chunks, cut: true}
	}
	return document{whole: whole, chunks: []chunk{whole}}
}

// skipMark leaves out a first line that is nothing but the mark between documents.
func skipMark(text []byte) (body []byte, lines int) {
	end := lineEnd(text, 0)
	if isMark(text[:end], "---") && len(bytes.TrimSpace(text[:end])) == len("---") {
		return text[end:], 1
	}
	return text, 0
}

// splitYAML cuts a List whose items are a block sequence, as kubectl prints it.
// In a block mapping nothing but an entry can begin with a dash at the sequence's
// own indentation, so lines are all that has to be looked at. Texts that break
// YAML's rules of indentation, or whose items share anchors, are cut wrongly, and
// always so that a chunk does not parse: the caller then parses the whole.
func splitYAML(doc chunk) ([]chunk, bool) {
	text := doc.text
	before, itemsLine, ok := findItems(text)
	if !ok {
		return nil, false
	}
	var chunks []chunk
	first, start, startLine, indent := before, before, 0, -1
	cut := func(end int) {
		if indent >= 0 {
			chunks = append(chunks, chunk{text: text[start:end], line: startLine, item: true})
		}
	}
	at, line := before, doc.line+itemsLine
	for at < len(text) {
		end := lineEnd(text, at)
		column, content := indentation(text[at:end])
		blank := len(content) == 0 || content[0] == '#'
		if isDash(content) && (indent < 0 || column == indent) {
			cut(at)
			if indent < 0 {
				first = at // comments above it are judged with what is around the items
			}
			start, startLine, indent = at, line, column
		} else if !blank && (indent < 0 || column <= indent) {
			break
		}
		at = end
		line++
	}
	cut(at)
	if len(chunks) == 0 {
		return nil, false
	}
	return ofList(slices.Concat(text[:first], text[at:]), chunks)
}

// findItems returns where the line after the key "items" begins, in bytes and lines.
func findItems(text []byte) (at, lines int, found bool) {
	for at < len(text) {
		end := lineEnd(text, at)
		lines++
		if rest, ok := bytes.CutPrefix(text[at:end], []byte("items:")); ok {
			rest = bytes.TrimSpace(rest)
			return end, lines, len(rest) == 0 || rest[0] == '#'
		}
		at = end
	}
	return 0, 0, false
}

// ofList keeps chunks only if what is around them says that they are a List's items.
func ofList(head []byte, chunks []chunk) ([]chunk, bool) {
	raw, err := yaml.YAMLToJSONStrict(head) // two keys "items" are an error
	if err != nil {
		return nil, false
	}
	var h header
	if err := unmarshal(raw, &h); err != nil || (len(h.Items) > 0 && string(h.Items) != "null") {
		return nil, false
	}
	apiVersion, kind, isList := listOf(h.APIVersion, h.Kind)
	for i := range chunks {
		chunks[i].apiVersion, chunks[i].kind = apiVersion, kind
	}
	return chunks, isList
}

// splitJSON cuts a List in JSON, which has been found valid.
func splitJSON(doc chunk) ([]chunk, bool) {
	var h header
	if err := unmarshal(doc.text, &h); err != nil {
		return nil, false
	}
	apiVersion, kind, isList := listOf(h.APIVersion, h.Kind)
	if !isList {
		return nil, false
	}
	var chunks []chunk
	line, counted := doc.line, 0
	err := eachItem(doc.text, func(raw []byte, end int) {
		start := end - len(raw)
		line += bytes.Count(doc.text[counted:start], []byte("\n"))
		counted = start
		chunks = append(chunks, chunk{text: doc.text[start:end], line: line, json: true, apiVersion: apiVersion, kind: kind})
	})
	return chunks, err == nil
}

// errUnusual says that a text is not written in the one way that is cut.
var errUnusual = errors.New("not an object with one array of items")

// eachItem calls fn with each element of the object's "items" and with the
// offset at which the element ends.
func eachItem(text []byte, fn func(raw []byte, end int)) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return err
	}
	found := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if key == "items" && found {
			return errUnusual
		}
		if key != "items" {
			if err := dec.Decode(&value); err != nil {
				return err
			}
			continue
		}
		found = true
		if first, err := dec.Token(); err != nil || first != json.Delim('[') {
			return errors.Join(err, errUnusual)
		}
		for dec.More() {
			if err := dec.Decode(&value); err != nil {
				return err
			}
			fn(value, int(dec.InputOffset()))
		}
		if _, err := dec.Token(); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errUnusual
	}
	return nil
}

// lineEnd returns where the line after the one at "at" begins.
func lineEnd(text []byte, at int) int {
	if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(text)
}

// isMark says whether a line begins with a mark of three characters that stands alone.
func isMark(line []byte, mark string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

func isDash(content []byte) bool {
	return len(content) > 0 && content[0] == '-' && (len(content) == 1 || content[1] == ' ')
}

// indentation returns how many spaces a line begins with, and what follows them.
func indentation(line []byte) (column int, content []byte) {
	content = bytes.TrimRight(line, "\r\n")
	trimmed := bytes.TrimLeft(content, " ")
	return len(content) - len(trimmed), trimmed
}

// isBlank says whether a text holds nothing but blank lines, comments and directives.
func isBlank(text []byte) bool {
	for at := 0; at < len(text); {
		end := lineEnd(text, at)
		content := bytes.TrimSpace(text[at:end])
		if len(content) > 0 && content[0] != '#' && content[0] != '%' && !bytes.Equal(content, []byte("---")) {
			return false
		}
		at = end
	}
	return true
}
