package arch

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Layers are the product's packages from the values up to the binaries. A
// package imports own packages of lower layers only; those of the first may
// import each other. A folder below a listed one belongs to its layer, too.
var Layers = [][]string{
	{"deploy/chart", "pkg/cluster", "pkg/endpoint", "pkg/file", "pkg/identity", "pkg/node", "pkg/retry", "pkg/route", "pkg/service"},
	{"pkg/kube"},
	{"bpf", "pkg/kvstore", "pkg/merge", "pkg/pki", "pkg/process", "pkg/source", "pkg/wire"},
	{"pkg/rotation", "pkg/state"},
	{"pkg/renewal", "pkg/stranger"},
	{"pkg/datapath", "pkg/feed", "pkg/gateway", "pkg/observe", "pkg/peer", "pkg/probe", "pkg/publish"},
	{"pkg/admin", "pkg/agent", "pkg/clusterpeer", "pkg/join", "pkg/mesh", "pkg/token"},
	{"causeway", "clustermesh-apiserver", "deploy", "node-agent"},
}

// pure are packages that import nothing of the product but the values.
var pure = []string{"pkg/merge", "pkg/wire"}

// Fence keeps what is outside in a few packages.
type Fence struct {
	// Import is the path, with all below it, that is fenced.
	Import string
	// Packages may import it; Why says what that is good for.
	Packages []string
	Why      string
}

// Fences are the modules that only some packages may import. The first one
// that holds an import counts.
var Fences = []Fence{
	{"go.etcd.io/etcd/api/v3", []string{"pkg/kvstore", "pkg/gateway"}, "the gateway speaks etcd's protocol to peers; nobody else has to know it"},
	{"go.etcd.io/etcd/server/v3/proxy/grpcproxy", []string{"pkg/kvstore", "pkg/gateway"}, "the gateway may serve etcd's reads; nobody else has to know how"},
	{"go.etcd.io", []string{"pkg/kvstore"}, "lists, watches, retries and transactions are easy to get wrong: they are written once, in pkg/kvstore"},
	{"helm.sh/helm", []string{"causeway/release"}, "a release is one thing of many that a command does; Helm's library takes minutes to compile"},
	{"k8s.io/cli-runtime", []string{"causeway/release"}, "it is what Helm's library wants to be given"},
	{"k8s.io/streaming", []string{"causeway/access"}, "a forwarded port is a connection to all others"},
	{"k8s.io/client-go", []string{"pkg/kube", "causeway/access", "causeway/install", "causeway/release"}, "lists, watches, credentials and their failures are easy to get wrong: they are written once, in pkg/kube; the command line makes single requests as a user"},
	{"k8s.io", []string{"pkg/kube", "pkg/source", "pkg/publish", "causeway/access", "causeway/install", "causeway/release"}, "what Kubernetes' objects look like ends where they become values of our own"},
	{"sigs.k8s.io", []string{"pkg/source", "causeway/install"}, "what Kubernetes' objects look like ends where they become values of our own"},
	{"github.com/cilium/ebpf", []string{"pkg/datapath", "bpf"}, "byte order, pinning and link updates are pkg/datapath's hazards alone"},
	{"github.com/vishvananda/netlink", []string{"pkg/datapath"}, "what changes the machine's network is in one place"},
	{"github.com/google/nftables", []string{"pkg/datapath"}, "what changes the machine's network is in one place"},
	{"github.com/mdlayher/netlink", []string{"pkg/datapath"}, "what changes the machine's network is in one place"},
	{"github.com/vishvananda/netns", []string{"pkg/datapath"}, "what changes the machine's network is in one place"},
	{"github.com/spf13/cobra", []string{"causeway"}, "daemons have flags, not commands: pkg/process parses them"},
}

// CheckImports returns what is wrong with the imports of the files. Files
// below tests/ and test files may import what they like.
func CheckImports(files []File) ([]string, error) {
	var wrong []string
	for _, file := range files {
		if path.Ext(file.Path) != ".go" || strings.HasSuffix(file.Path, "_test.go") ||
			Within(file.Path, "tests") || Within(file.Path, "tools") {
			continue
		}
		imports, err := file.Imports()
		if err != nil {
			return nil, err
		}
		for _, imported := range imports {
			if reason := refuse(file.Package(), imported); reason != "" {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: %s", file.Path, imported, reason))
			}
		}
	}
	return wrong, nil
}

// refuse returns why a package may not import another, "" when it may.
func refuse(pkg, imported string) string {
	if own, ok := strings.CutPrefix(imported, Module+"/"); ok {
		return refuseOwn(pkg, own)
	}
	for _, fence := range Fences {
		if !Within(imported, fence.Import) {
			continue
		}
		if !slices.ContainsFunc(fence.Packages, func(dir string) bool { return Within(pkg, dir) }) {
			return fmt.Sprintf("only %s may: %s", strings.Join(fence.Packages, ", "), fence.Why)
		}
		return ""
	}
	return ""
}

func refuseOwn(pkg, imported string) string {
	from, to := layer(pkg), layer(imported)
	switch {
	case Within(imported, "tests") || Within(imported, "tools"):
		return "what tests the product is no part of it"
	case from < 0:
		return pkg + " is in no layer: say in tests/arch where it belongs"
	case to < 0:
		return imported + " is in no layer: say in tests/arch where it belongs"
	case to == len(Layers)-1 && folder(pkg) != folder(imported):
		return "nothing imports a binary: what others need is a package"
	case folder(pkg) == folder(imported):
		return ""
	case slices.Contains(pure, folder(pkg)) && to > 0:
		return pkg + " knows the values and nothing else, so that it stays pure and can be tested without anything running"
	case from == 0 && to == 0:
		return ""
	case to >= from:
		return "arrows point from the binaries down to the values, never up or aside: pass a value, or declare an interface where it is used"
	}
	return ""
}

// layer returns the number of the layer that pkg belongs to, or -1.
func layer(pkg string) int {
	return slices.IndexFunc(Layers, func(dirs []string) bool { return slices.Contains(dirs, folder(pkg)) })
}

// folder returns the listed folder that pkg is, or lies beneath: "" for none.
func folder(pkg string) string {
	for _, dirs := range Layers {
		for _, dir := range dirs {
			if Within(pkg, dir) {
				return dir
			}
		}
	}
	return ""
}
