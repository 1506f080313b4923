package kind

import (
	"bufio"
	"context"
	_ "embed" // the manifests
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
)

//go:embed testdata/slots.yaml
var slotsManifest string

//go:embed testdata/slotpod.yaml
var slotPodManifest string

// figures are what out/bench/e2e.json has: how long a user waits, and beside each
// how long for the same within one cluster, without Causeway.
type figures struct {
	// Up is what `causeway up` takes from nothing to ready, in seconds; PodsStart what
	// the pods of a Deployment and a DaemonSet take, with images that are there.
	Up        float64 `json:"up_to_ready_seconds"`
	PodsStart float64 `json:"pods_start_seconds"`
	UpRatio   float64 `json:"up_ratio"`
	// Annotation is from the start of `kubectl annotate` to the first answer of the
	// other cluster, Service from that of `kubectl expose` to the first answer.
	Annotation      quantiles `json:"annotation_to_answer_ms"`
	Service         quantiles `json:"service_to_answer_ms"`
	AnnotationRatio float64   `json:"annotation_ratio_p50"`
	// Ready is from a pod's readiness, as a watch of the Kubernetes API tells it, to
	// its first answer to a pod of the other cluster; InCluster the same to one of its
	// own, by kube-proxy.
	Ready     quantiles `json:"pod_ready_to_answer_ms"`
	InCluster quantiles `json:"pod_ready_to_answer_in_cluster_ms"`
	ReadyP50  float64   `json:"pod_ready_ratio_p50"`
	ReadyP99  float64   `json:"pod_ready_ratio_p99"`
}

// quantiles are of times in milliseconds.
type quantiles struct {
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Count int     `json:"count"`
}

func quantilesOf(times []time.Duration) quantiles {
	slices.Sort(times)
	at := func(q float64) float64 {
		n := int(math.Ceil(q*float64(len(times)))) - 1
		return float64(times[max(n, 0)].Microseconds()) / 1000
	}
	return quantiles{at(0.5), at(0.99), len(times)}
}

func (f *figures) write() error {
	if f.Ready.Count == 0 || f.Service.Count == 0 || f.PodsStart == 0 {
		return nil // only some of the steps were asked for
	}
	f.UpRatio = f.Up / f.PodsStart
	f.AnnotationRatio = f.Annotation.P50 / f.Service.P50
	f.ReadyP50, f.ReadyP99 = f.Ready.P50/f.InCluster.P50, f.Ready.P99/f.InCluster.P99
	return writeOut("bench/e2e.json", f)
}

// annotations is how often a service is shared anew, for its time.
const annotations = 5

// annotation shares the service, and waits for the first answer of the other cluster.
func (j *journey) annotation(ctx context.Context) {
	east, west := j.bed.East(), j.bed.West()
	const plain = "10.111.200.200"
	j.kubectl(ctx, west, "annotate", "--overwrite", "service", "web", "causeway.io/global=true")
	address := j.kubectl(ctx, east, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	var shared, made []time.Duration
	for range annotations {
		j.kubectl(ctx, east, "annotate", "service", "web", "causeway.io/global-")
		j.only(ctx, east, "east")
		begun, took := j.whenAnswers(ctx, east, []string{"--cluster", "west", address + ":80"}, func() {
			j.kubectl(ctx, east, "annotate", "service", "web", "causeway.io/global=true")
		})
		shared = append(shared, took[0].At.Sub(begun))

		begun, took = j.whenAnswers(ctx, east, []string{plain + ":80"}, func() {
			j.kubectl(ctx, east, "expose", "deployment", "web", "--name", "plain", "--cluster-ip", plain, "--port", "80", "--target-port", "8080")
		})
		made = append(made, took[0].At.Sub(begun))
		j.kubectl(ctx, east, "delete", "service", "plain")
	}
	j.figures.Annotation, j.figures.Service = quantilesOf(shared), quantilesOf(made)
	j.t.Logf("annotated: %v; made: %v", shared, made)
}

// whenAnswers has a cluster's client wait for first answers while something is done,
// and returns when that was begun.
func (j *journey) whenAnswers(ctx context.Context, c *Cluster, targets []string, do func()) (begun time.Time, answers []workload.First) {
	j.t.Helper()
	asked := make(chan error, 1)
	go func() {
		var err error
		answers, err = firstAnswers(ctx, c, targets)
		asked <- err
	}()
	j.must(wait(ctx, askAhead))
	begun = time.Now()
	do()
	j.must(<-asked)
	return begun, answers
}

// askAhead is how long a client is given to begin. One that begins later than what it
// waits for measures its own start: longer times, never shorter ones.
const askAhead = 2 * time.Second

func firstAnswers(ctx context.Context, c *Cluster, args []string) ([]workload.First, error) {
	out, err := c.Exec(ctx, "client", append([]string{"/echo", "first", "--within", patience.String()}, args...)...)
	if err != nil {
		return nil, err
	}
	return decode[workload.First](out)
}

// So many pods come at once, so often: 50 in all.
const (
	slots  = 10
	rounds = 5
)

// podsCome measures what it takes until a new pod of west is asked.
func (j *journey) podsCome(ctx context.Context) {
	var services strings.Builder
	for n := range slots {
		services.WriteString(strings.ReplaceAll(slotsManifest, "SLOT", strconv.Itoa(n)))
	}
	j.must(j.bed.each(func(c *Cluster) error { return c.Apply(ctx, services.String()) }))
	away, own := j.slotTargets(ctx, j.bed.East(), "global-"), j.slotTargets(ctx, j.bed.West(), "plain-")
	var awayTimes, ownTimes []time.Duration
	for round := range rounds {
		ready, answers := j.round(ctx, round, away, own)
		for pod, at := range ready {
			awayTimes = append(awayTimes, answers["east"][pod].Sub(at))
			ownTimes = append(ownTimes, answers["west"][pod].Sub(at))
		}
	}
	j.figures.Ready, j.figures.InCluster = quantilesOf(awayTimes), quantilesOf(ownTimes)
	j.t.Logf("from readiness to an answer to the other cluster: %+v; to its own: %+v", j.figures.Ready, j.figures.InCluster)
}

// slotTargets are the addresses of all slots' services of one kind.
func (j *journey) slotTargets(ctx context.Context, c *Cluster, prefix string) []string {
	j.t.Helper()
	var targets []string
	for n := range slots {
		targets = append(targets, j.kubectl(ctx, c, "get", "service", prefix+strconv.Itoa(n), "-o", "jsonpath={.spec.clusterIP}")+":80")
	}
	return targets
}

// round lets a pod come in each slot of west and go again, and returns by the pods'
// names when they were ready, and when they answered a client of each cluster.
func (j *journey) round(ctx context.Context, round int, away, own []string) (ready map[string]time.Time, answers map[string]map[string]time.Time) {
	j.t.Helper()
	east, west := j.bed.East(), j.bed.West()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var pods strings.Builder
	for n := range slots {
		pods.WriteString(strings.NewReplacer("CLUSTER", west.Name, "SLOT", strconv.Itoa(n), "ROUND", strconv.Itoa(round)).Replace(slotPodManifest))
	}
	var group errgroup.Group
	var mu sync.Mutex
	answers = map[string]map[string]time.Time{}
	for c, targets := range map[*Cluster][]string{east: away, west: own} {
		group.Go(func() error {
			firsts, err := firstAnswers(ctx, c, targets)
			mu.Lock()
			defer mu.Unlock()
			answers[c.Name] = map[string]time.Time{}
			for _, f := range firsts {
				answers[c.Name][f.Pod] = f.At
			}
			return err
		})
	}
	group.Go(func() (err error) {
		ready, err = west.watchReady(ctx, "app=slot", slots)
		return err
	})
	j.must(wait(ctx, askAhead))
	j.must(west.Apply(ctx, pods.String()))
	j.must(group.Wait())
	j.kubectl(ctx, west, "delete", "pods", "-l", "app=slot", "--timeout=2m")
	j.must(silent(ctx, east, away))
	j.must(silent(ctx, west, own))
	return ready, answers
}

// wait is for what cannot be seen from outside.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// silent returns once none of the targets answers a cluster's client.
func silent(ctx context.Context, c *Cluster, targets []string) error {
	return await(ctx, patience, func(ctx context.Context) error {
		out, err := c.Exec(ctx, "client", append([]string{"/echo", "get", "--timeout", "1s"}, targets...)...)
		results, decodeErr := decode[workload.Result](out)
		if decodeErr != nil || len(results) != len(targets) {
			return errors.Join(fmt.Errorf("%d of %d targets were asked", len(results), len(targets)), err, decodeErr)
		}
		for _, r := range results {
			if r.Error == "" {
				return fmt.Errorf("pod %s still answers", r.Pod)
			}
		}
		return nil
	})
}

// watchReady returns when so many pods became ready, as a watch tells it.
func (c *Cluster) watchReady(ctx context.Context, selector string, count int) (map[string]time.Time, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := c.bed.Command(ctx, c.bed.parts.Kubernetes, "kubectl", "--context", c.Context(), "get", "pods", "--selector", selector, "--watch",
		"-o", `jsonpath={.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ready := map[string]time.Time{}
	lines := bufio.NewScanner(out)
	for len(ready) < count && lines.Scan() {
		name, status, _ := strings.Cut(lines.Text(), " ")
		if _, known := ready[name]; !known && status == "True" {
			ready[name] = time.Now()
		}
	}
	cancel()
	if err := cmd.Wait(); len(ready) < count {
		return nil, fmt.Errorf("of %d pods %d became ready: %w", count, len(ready), errors.Join(err, lines.Err()))
	}
	return ready, nil
}
