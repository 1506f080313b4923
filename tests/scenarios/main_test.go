// Package scenarios tests the whole mesh: real daemons, etcd, TLS, eBPF and
// packets in a lab. Scripts in testdata/scripts say what happens and what
// clients see then; what takes a table is in Go.
//
// A script acts on clusters by the commands of this package, see commands, and
// those of testscript. Clusters are made of small manifests: its own, or those
// of testdata/clusters, which lie in $CLUSTERS; unedited dumps are in $DUMPS.
//
//   - A cluster is named by its name, a node by CLUSTER/NODE.
//   - A pod is CLUSTER/NAMESPACE/NAME, or CLUSTER/NAME in the namespace shop.
//   - A process is CLUSTER/api, or CLUSTER/NODE for the agent there; CLUSTER is
//     all of a cluster's, "all" is all of them.
//
// Nothing waits for a time to pass: commands return when what they ask for has
// come true, and fail when it has not within patience.
package scenarios

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// How long a command may wait for what it is told to see, and how often it
// looks at what tells nothing by itself.
const (
	patience = 60 * time.Second
	step     = 50 * time.Millisecond
)

func TestMain(m *testing.M) { labtest.Main(m) }

// faceFlag chooses the nodes of TestScriptsRouted.
var faceFlag = flag.String("face", "all at once", "the face of the nodes, or all of them one after the other when it is \"all\"")

// TestScripts runs the scripts on a network that carries packets by itself: all of
// them when all faces are asked for, and otherwise those to which it matters and
// some that go through the most.
func TestScripts(t *testing.T) {
	names := []string{"basic", "namespace", "peer-broken", "peers", "restart", "wipe"}
	if *faceFlag == "all" {
		names = []string{"*"}
	}
	runScripts(t, lab.Network{}, names)
}

// TestScriptsRouted runs all of them in clusters whose pods are behind their nodes,
// with Causeway carrying the packets.
func TestScriptsRouted(t *testing.T) {
	all := labtest.Faces()
	if network, ok := all[*faceFlag]; ok {
		all = map[string]lab.Network{*faceFlag: network}
	} else if *faceFlag != "all" {
		t.Fatalf("no face is called %q", *faceFlag)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			if all[name].Plugin != "" {
				labtest.RequirePlugins(t)
			}
			runScripts(t, all[name], []string{"*"})
		})
	}
}

// runScripts runs the scripts whose names match. In one, [flat] and [routed] say on
// which kind of network a line is meant.
func runScripts(t *testing.T, network lab.Network, names []string) {
	t.Helper()
	labtest.RequireRoot(t)
	var files []string
	for _, name := range names {
		found, err := filepath.Glob(filepath.Join("testdata", "scripts", name+".txtar"))
		check(t, err)
		if len(found) == 0 {
			t.Fatalf("no script is called %s", name)
		}
		files = append(files, found...)
	}
	testscript.Run(t, testscript.Params{
		Files:              files,
		Setup:              func(env *testscript.Env) error { return setUp(env, network) },
		Cmds:               scriptCommands(),
		Condition:          func(name string) (bool, error) { return holds(name, network) },
		RequireUniqueNames: true,
	})
}

func holds(condition string, network lab.Network) (bool, error) {
	switch condition {
	case "flat":
		return network.Kind == lab.Flat, nil
	case "routed":
		return network.Kind == lab.Routed, nil
	}
	return false, fmt.Errorf("a network is flat or routed, not %q", condition)
}

type worldKey struct{}

func setUp(env *testscript.Env, network lab.Network) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("scripts run under go test only")
	}
	for name, dir := range map[string]string{"CLUSTERS": "testdata/clusters", "DUMPS": "../testdata/dumps"} {
		path, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("find %q: %w", dir, err)
		}
		env.Setenv(name, path)
	}
	env.Setenv("WEB", web)
	w := newWorld(t, env.WorkDir)
	w.network = network
	env.Values[worldKey{}] = w
	return nil
}

// call is one line of a script.
type call struct {
	*world
	script *testscript.TestScript
	negate bool
	args   []string
}

// command is what a line of a script can say.
type command struct {
	usage   string
	least   int // arguments
	negates bool
	run     func(context.Context, *call) error
}

func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	out := map[string]func(*testscript.TestScript, bool, []string){}
	for name, c := range commands() {
		out[name] = func(script *testscript.TestScript, negate bool, args []string) {
			if len(args) < c.least || negate && !c.negates {
				script.Fatalf("usage: %s %s", name, c.usage)
			}
			w := script.Value(worldKey{}).(*world)
			ctx, cancel := context.WithTimeout(w.t.Context(), patience)
			defer cancel()
			script.Check(c.run(ctx, &call{world: w, script: script, negate: negate, args: args}))
		}
	}
	return out
}

func commands() map[string]command {
	return map[string]command{
		// Clusters and their processes.
		"cluster":  {"NAME ID MANIFESTS...", 3, false, addCluster},
		"up":       {"CLUSTER...", 1, false, up},
		"ready":    {"[CLUSTER...]", 0, false, ready},
		"start":    {"PROCESS [FLAG...]", 1, false, startProcess},
		"sigkill":  {"PROCESS...", 1, false, kill},
		"sigterm":  {"PROCESS...", 1, false, stop},
		"again":    {"PROCESS...", 1, false, again},
		"pause":    {"PROCESS...", 1, false, pause},
		"resume":   {"PROCESS...", 1, false, resume},
		"refused":  {"api|agent CLUSTER REGEXP [FLAG...]", 3, false, refused},
		"wipe":     {"CLUSTER [FOLDER]", 1, false, wipe},
		"cut":      {"CLUSTER|NODE", 1, false, cut},
		"heal":     {"CLUSTER|NODE", 1, false, heal},
		"log":      {"PROCESS REGEXP", 2, true, logged},
		"status":   {"CLUSTER REGEXP...", 2, true, showStatus},
		"services": {"CLUSTER REGEXP...", 2, true, showServices},
		"metric":   {"PROCESS REGEXP...", 2, true, metric},

		// Manifests and peers.
		"manifest":       {"CLUSTER NAME [FILE]", 2, false, manifest},
		"move-manifests": {"CLUSTER away|back", 2, false, moveManifests},
		"annotate":       {"CLUSTER SERVICE KEY=VALUE...", 3, false, annotate},
		"end-pod":        {"POD", 1, false, endPod},
		"delete-pod":     {"POD", 1, false, deletePod},
		"pod-ready":      {"POD True|False", 2, false, podReady},
		"sync":           {"CLUSTER", 1, false, syncPods},
		"connect":        {"[CLUSTER PEER]", 0, false, connect},
		"cached":         {"CLUSTER PEER", 2, false, cached},
		"disconnect":     {"CLUSTER PEER", 2, false, disconnect},
		"peer":           {"CLUSTER PEER [FILE]", 2, false, peerFile},
		"certificate":    {"CLUSTER ROLE NAME PREFIX [LIFETIME]", 4, false, certificate},

		// What clients see.
		"answers":  {"[-mapped|-udp] [-ports] CLIENT TARGET [POD...]", 2, true, answers},
		"sticky":   {"CLIENT TARGET POD...", 3, false, sticky},
		"load":     {"NAME CLIENT TARGET", 3, false, startLoad},
		"served":   {"NAME COUNT", 2, false, served},
		"unharmed": {"NAME", 1, false, unharmed},
	}
}

// eventually calls check until it returns nil. When ctx ends before, it returns
// what was last found wrong while there was time to look.
func eventually(ctx context.Context, check func() error) error {
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	var wrong error
	for {
		err := check()
		if err == nil {
			return nil
		}
		if wrong == nil || ctx.Err() == nil {
			wrong = err
		}
		select {
		case <-ctx.Done():
			return wrong
		case <-ticker.C:
		}
	}
}
