package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/tests/bench/mesh"
	"github.com/causeway-mesh/causeway/tests/lab"
)

const (
	// trustRounds is how often both halves are measured.
	trustRounds = 6
	// trustChurn is for how long keys change in each half.
	trustChurn = 6 * time.Second
	// trustBudget is how much more judging may cost.
	trustBudget = 1.05
)

// trustCost is what one half of a round took.
type trustCost struct {
	maps, startCPU, churnCPU, burst, burstCPU float64 // s
}

// rowTrust measures what it costs to judge each key of a peer: two builds of the
// API server take turns, one of which believes all that it is told. Everything else
// is the same, and files are in memory.
func rowTrust(ctx context.Context, b *syncBench) (err error) {
	dir, err := os.MkdirTemp("", "causeway-bench-believing-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	believing, err := buildBelieving(ctx, dir)
	if err != nil {
		return err
	}
	var with, without []trustCost
	for round := range trustRounds {
		halves := []struct {
			binaries string
			costs    *[]trustCost
		}{{b.binaries, &with}, {believing, &without}}
		if round%2 == 1 { // who goes first may have it better or worse
			halves[0], halves[1] = halves[1], halves[0]
		}
		for _, half := range halves {
			cost, err := b.trustHalf(ctx, half.binaries)
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			*half.costs = append(*half.costs, cost)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, m := range []struct {
		name string
		of   func(trustCost) float64
	}{
		{"a new peer, time to complete maps", func(c trustCost) float64 { return c.maps }},
		{"a new peer, CPU of the API server", func(c trustCost) float64 { return c.startCPU }},
		{fmt.Sprintf("%d changes/s, CPU of the API server", churnRate), func(c trustCost) float64 { return c.churnCPU }},
		{"a burst, time to the last map entry", func(c trustCost) float64 { return c.burst }},
		{"a burst, CPU of the API server", func(c trustCost) float64 { return c.burstCPU }},
	} {
		ratio := bootstrap(quotients(each(with, m.of), each(without, m.of)), random)
		b.keep(b.add(fmt.Sprintf("%s, judged to believed (95 %%: %.3f to %.3f)", m.name, ratio.Low, ratio.High), ratio.Value, "").beyondNoise(ratio, trustBudget))
	}
	return nil
}

// beyondNoise holds f to an upper bound, which is missed when all of the interval
// is above it.
func (f figure) beyondNoise(i interval, bound float64) figure {
	f.Budget, f.Met = "<= "+short(bound)+" beyond the noise", i.Low <= bound
	return f
}

func each(costs []trustCost, of func(trustCost) float64) (out []float64) {
	for _, c := range costs {
		out = append(out, of(c))
	}
	return out
}

// trustHalf measures one build from a new peer to a burst.
func (b *syncBench) trustHalf(ctx context.Context, binaries string) (cost trustCost, err error) {
	spec := mesh.Spec{Clusters: 1, Nodes: 1000, Identities: 5000, Addresses: 50_000, Services: 10_000, Backends: 3}
	w, err := newWorld(ctx, binaries, worldConfig{spec: spec, files: memoryDir})
	if err != nil {
		return cost, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(ctx); err != nil {
		return cost, err
	}
	maps, _, used, err := b.bootstrap(ctx, w)
	if err != nil {
		return cost, err
	}
	cost.maps, cost.startCPU = maps.Seconds(), used[apiServer].cpu.Seconds()
	m, err := measureUse(ctx, w.pids())
	if err != nil {
		return cost, err
	}
	defer m.end()
	if _, err := w.churn(ctx, 0, int(trustChurn.Seconds()*churnRate)); err != nil {
		return cost, err
	}
	if used, err = m.stop(); err != nil {
		return cost, err
	}
	cost.churnCPU = used[apiServer].cpu.Seconds()
	burst, used, err := b.measureBurst(ctx, w, 2) // 1 is what changed above
	if err != nil {
		return cost, err
	}
	cost.burst, cost.burstCPU = burst.Seconds(), used[apiServer].cpu.Seconds()
	return cost, nil
}

// judgements are the methods of trust.Judge that decide about a key, and what
// they answer when they are not to.
func judgements() map[string]string {
	return map[string]string{
		"Identity": "return nil", "Address": "return nil", "Node": "return nil", "Service": "return nil", "Slice": "return nil",
		"Admit": "return nil", "Count": "return", "Discount": "return", "Room": "return false",
	}
}

// buildBelieving builds the programs in a folder from sources in which every key of
// a peer is believed, and returns where they are. No build of the product can.
func buildBelieving(ctx context.Context, dir string) (string, error) {
	overlay, err := believe(ctx, dir)
	if err != nil {
		return "", err
	}
	return lab.Build(ctx, lab.BuildConfig{Output: filepath.Join(dir, "bin"), Overlay: overlay})
}

// believe writes the judge that believes, and the overlay that puts it in place.
func believe(ctx context.Context, dir string) (overlay string, err error) {
	found, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", "github.com/causeway-mesh/causeway/pkg/peer/trust").Output()
	if err != nil {
		return "", fmt.Errorf("find the judge's sources: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(found)), "judge.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	if source, err = answering(source, judgements()); err != nil {
		return "", fmt.Errorf("%s: %w", original, err)
	}
	replaced := filepath.Join(dir, "judge.go")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {original: replaced}})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, errors.Join(os.WriteFile(replaced, source, 0o600), os.WriteFile(overlay, text, 0o600))
}

// answering has methods begin with what they are to answer, by name. All of them
// must be there once.
func answering(source []byte, answers map[string]string) ([]byte, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	done, found := 0, 0
	for _, declared := range file.Decls {
		f, ok := declared.(*ast.FuncDecl)
		if !ok || f.Recv == nil || answers[f.Name.Name] == "" {
			continue
		}
		begin := set.Position(f.Body.Lbrace).Offset + 1
		out.Write(source[done:begin])
		out.WriteString(" " + answers[f.Name.Name] + ";")
		done = begin
		found++
	}
	if found != len(answers) {
		return nil, fmt.Errorf("%d of %d methods are there: the benchmark has to follow", found, len(answers))
	}
	out.Write(source[done:])
	return out.Bytes(), nil
}
