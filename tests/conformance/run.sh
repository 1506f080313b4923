#!/bin/sh
# Builds these tests and runs them; arguments are the test binary's (-test.run).
# Cilium is 1,200 packages: the binary is kept outside the repository under a
# name made of all that goes into it, so that only the first run takes minutes.
set -eu
cd "$(dirname "$0")"
module=github.com/causeway-mesh/causeway
cache=${XDG_CACHE_HOME:-$HOME/.cache}/causeway/conformance
programs=$PWD/../../out/conformance

# What they import of the product, and what that imports of it.
ours=$(grep -ho "$module/pkg/[a-z]*" ./*_test.go | sort -u)
files=$(cd ../.. && go list -deps -f "{{if .Module}}{{if eq .Module.Path \"$module\"}}{{range .GoFiles}}{{\$.Dir}}/{{.}} {{end}}{{end}}{{end}}" $ours)
sum=$({ go env GOVERSION GOOS GOARCH CGO_ENABLED; cat go.mod go.sum ../../go.mod ./*.go $files; } | sha256sum | cut -c1-32)
binary=$cache/$sum.test

if [ ! -x "$binary" ]; then
	echo "building the conformance tests against Cilium: minutes the first time, half a minute after a change"
	mkdir -p "$cache"
	nice go vet -p 2 .
	nice go test -p 2 -c -o "$binary.$$" .
	mv "$binary.$$" "$binary"
	# The last few are enough for a change of branches.
	ls -t "$cache"/*.test | tail -n +5 | xargs -r rm -f
fi

mkdir -p "$programs"
(cd ../.. && CGO_ENABLED=0 go build -trimpath -tags nokubernetes -o "$programs/" ./clustermesh-apiserver ./causeway)
CAUSEWAY_BIN=$programs exec "$binary" -test.timeout 5m "$@"
