package arch

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// MaxLines is how long a file written by hand may be.
const MaxLines = 600

// LongFiles are the files that may be longer, each with its reason.
var LongFiles = map[string]string{}

// CheckLines returns the files that are too long, and exceptions that are none.
func CheckLines(files []File, exceptions map[string]string) []string {
	var wrong []string
	used := map[string]bool{}
	for _, file := range files {
		if !isSource(file) || file.Generated() || file.Lines() <= MaxLines {
			continue
		}
		if exceptions[file.Path] != "" {
			used[file.Path] = true
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%s has %d lines, %d are allowed: a file that nobody reads in one go holds more than one thing; "+
			"split it, or list it in tests/arch with a reason", file.Path, file.Lines(), MaxLines))
	}
	for name := range exceptions {
		if !used[name] {
			wrong = append(wrong, name+" is an exception that is not needed: remove it from the list")
		}
	}
	slices.Sort(wrong)
	return wrong
}

func isSource(file File) bool {
	switch path.Ext(file.Path) {
	case ".go", ".c", ".h", ".proto", ".sh":
		return true
	}
	return path.Base(file.Path) == "Makefile"
}

// Licence is what each C file says of itself.
const Licence = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"

// CheckLicences returns what lacks its licence.
func CheckLicences(files []File) []string {
	texts := map[string]bool{"LICENSE": false, "bpf/LICENSE.GPL-2.0": false, "bpf/LICENSE.BSD-2-Clause": false}
	var wrong []string
	for _, file := range files {
		if _, ok := texts[file.Path]; ok {
			texts[file.Path] = true
		}
		kernel := Within(file.Path, "bpf") && (path.Ext(file.Path) == ".c" || path.Ext(file.Path) == ".h")
		if !kernel {
			continue
		}
		// A C file of a Go package begins with a build constraint.
		head := strings.Join(strings.SplitN(string(file.Data), "\n", 4)[:min(3, file.Lines())], "\n")
		if !strings.Contains(head, Licence) {
			wrong = append(wrong, fmt.Sprintf("%s: %q is missing in its first lines: the kernel lets only GPL programs call all helpers, "+
				"and others may reuse them under BSD", file.Path, Licence))
		}
	}
	for name, found := range texts {
		if !found {
			wrong = append(wrong, name+" is missing: the text of each licence comes with the source")
		}
	}
	slices.Sort(wrong)
	return wrong
}

// homes finds paths in the folders in which people work.
var homes = regexp.MustCompile(`(?m)(?:^|[^A-Za-z0-9_.:/-])(/(?:home/[a-z][-a-z0-9_]*|root|Users/[A-Za-z]+)/[A-Za-z0-9_.]+)`)

// CheckPaths returns the files, objects included, that name a folder of the
// machine they were made on. Root is where the repository lies.
func CheckPaths(files []File, root string) []string {
	var wrong []string
	for _, file := range files {
		if Within(file.Path, "tests/arch") || Within(file.Path, "tests/testdata") {
			continue
		}
		found := ""
		if match := homes.FindSubmatch(file.Data); match != nil {
			found = string(match[1])
		}
		// A short root, such as that of a container, is also an ordinary word.
		if found == "" && strings.Count(root, "/") > 1 && bytes.Contains(file.Data, []byte(root+"/")) {
			found = root
		}
		if found != "" {
			wrong = append(wrong, fmt.Sprintf("%s names %q: it exists on one machine only, and objects made elsewhere would differ", file.Path, found))
		}
	}
	return wrong
}

// phrases are texts that have no place in Go files but tests.
var phrases = []struct {
	pattern *regexp.Regexp
	why     string
}{
	{regexp.MustCompile(`(Errorf|errors\.New)\(["` + "`]" + `(failed|unable|could not|error) `), "an error says the verb and the object; that it failed is what an error is"},
}

// CheckPhrases returns where Go files say what they should not.
func CheckPhrases(files []File) []string {
	var wrong []string
	for _, file := range files {
		if path.Ext(file.Path) != ".go" || strings.HasSuffix(file.Path, "_test.go") || file.Generated() {
			continue
		}
		for _, phrase := range phrases {
			for _, at := range phrase.pattern.FindAllIndex(file.Data, -1) {
				line := 1 + bytes.Count(file.Data[:at[0]], []byte("\n"))
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s: %s", file.Path, line, file.Data[at[0]:at[1]], phrase.why))
			}
		}
	}
	return wrong
}
