// Package chart has the Helm chart, so that programs need no files to install it.
package chart

import (
	"embed"
	"io/fs"
)

//go:embed Chart.yaml .helmignore values.yaml values.schema.json README.md dashboards all:templates
var files embed.FS

// Files returns the chart's files, by their paths below its folder.
func Files() fs.FS { return files }
