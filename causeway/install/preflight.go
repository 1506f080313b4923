package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/causeway/access"
)

// The levels of findings, as `node-agent preflight` has them.
const (
	levelFine  = "ok"
	levelLimit = "limit"
	levelFail  = "fail"
)

// Finding is what a node's agent found out about one thing before it runs there.
type Finding struct {
	Check string `json:"check"`
	// Level is ok, note, limit (some of the mesh does not work) or fail (nothing does).
	Level string `json:"level"`
	What  string `json:"what"`
	// Do says what to change, where there is anything.
	Do string `json:"do,omitempty"`
}

// NodeReport is what was found out about a node.
type NodeReport struct {
	Cluster  string    `json:"cluster"`
	Node     string    `json:"node"`
	Findings []Finding `json:"findings"`
}

// Worse are the findings that are not as they should be.
func (r *NodeReport) Worse() (out []Finding) {
	for _, f := range r.Findings {
		if f.Level != levelFine {
			out = append(out, f)
		}
	}
	return out
}

// Failed reports whether nothing would work on the node.
func (r *NodeReport) Failed() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == levelFail })
}

// looker is the label of the pods that look at nodes.
const looker = "causeway-preflight"

// remoteNodes is how many nodes of each other cluster are tried from each node.
const remoteNodes = 3

// Remote are the ways to other clusters that each node tries.
type Remote struct {
	// Gateways are host:port, Nodes addresses.
	Gateways, Nodes []string
}

// Preflight has each node looked at, as the agent would be there that a release with
// these values makes, and removes what it made for that. What can not be looked at is a
// finding. Nothing of the nodes is changed.
func (i *Installer) Preflight(ctx context.Context, values map[string]any, remote Remote) ([]NodeReport, error) {
	reports, made, err := i.look(ctx, values, remote)
	return reports, errors.Join(err, i.giveBack(ctx, made))
}

// look is Preflight that leaves the namespace, and reports whether it made it.
func (i *Installer) look(ctx context.Context, values map[string]any, remote Remote) (reports []NodeReport, made bool, err error) {
	agents, mounts, err := i.agentsOf(ctx, values)
	if err != nil {
		return nil, false, err
	}
	if made, err = i.lend(ctx); err != nil {
		return nil, made, err
	}
	_, err = i.onNodes(ctx, errand{
		what: "look at the nodes", name: looker, pod: func(node string) *corev1.Pod { return lookout(agents, node, remote) },
		ended: func(ctx context.Context, pods []corev1.Pod) {
			for n := range pods {
				reports = append(reports, i.read(ctx, &pods[n], mounts))
			}
		},
	})
	slices.SortFunc(reports, func(a, b NodeReport) int { return strings.Compare(a.Node, b.Node) })
	return reports, made, err
}

// giveBackTime bounds what is done after the end of a command.
const giveBackTime = 30 * time.Second

// giveBack removes a namespace that was made for a look, if nothing was installed there
// since.
func (i *Installer) giveBack(ctx context.Context, made bool) error {
	if !made {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTime)
	defer cancel()
	if state, err := i.Current(); err != nil || state != nil {
		return err
	}
	return i.removeNamespace(ctx, UninstallOptions{})
}

// agentsOf returns the agents as the chart makes them, and whether they have a BPF file
// system mounted.
func (i *Installer) agentsOf(ctx context.Context, values map[string]any) (agents *appsv1.DaemonSet, mounts bool, err error) {
	state, err := i.Current()
	if err != nil {
		return nil, false, err
	}
	if values, err = i.wanted(ctx, state, values); err != nil {
		return nil, false, err
	}
	plan, err := i.plan(ctx, values)
	if err != nil {
		return nil, false, err
	}
	for text := range strings.SplitSeq(plan.Manifest, "\n---") {
		var set appsv1.DaemonSet
		if yaml.Unmarshal([]byte(text), &set) == nil && set.Kind == "DaemonSet" && set.Name == access.NodeAgent {
			set.Namespace = i.Cluster.Namespace
			return &set, len(set.Spec.Template.Spec.InitContainers) > 0, nil
		}
	}
	return nil, false, fmt.Errorf("%s: these values run no agents (nodeAgent.enabled)", i.Name)
}

// lend makes the namespace for as long as nodes are looked at, and reports whether it was
// missing. Without its ServiceAccount no pod is taken.
func (i *Installer) lend(ctx context.Context) (made bool, err error) {
	space := i.Cluster.Client.CoreV1().Namespaces()
	_, err = space.Get(ctx, i.Cluster.Namespace, metav1.GetOptions{})
	if made = apierrors.IsNotFound(err); err != nil && !made {
		return false, i.Cluster.Explain(err)
	}
	if err := i.ensureNamespace(ctx); err != nil {
		return made, err
	}
	err = i.until(ctx, i.cfg.Timeout, "ServiceAccount of the namespace", func(ctx context.Context) (bool, string, error) {
		_, err := i.Cluster.Client.CoreV1().ServiceAccounts(i.Cluster.Namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, "", i.Cluster.Explain(err)
	})
	return made, err
}

// lookout returns a pod that looks at one node, with the agent's rights.
func lookout(agents *appsv1.DaemonSet, node string, remote Remote) *corev1.Pod {
	sees := func(v corev1.Volume) bool { // not what would be made on the node
		return v.HostPath != nil && v.HostPath.Type != nil && *v.HostPath.Type == corev1.HostPathDirectory
	}
	pod := beside(agents, node, looker, "preflight", []string{"--bpffs-dir", "--mesh-port", "--mesh-device", "--cgroup-root"}, sees)
	pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount, pod.Spec.PriorityClassName = "default", "", ""
	off := false
	pod.Spec.AutomountServiceAccountToken = &off
	c := &pod.Spec.Containers[0]
	c.Args = append(c.Args, "--output=json", "--node-name="+node)
	if len(remote.Gateways) > 0 {
		c.Args = append(c.Args, "--gateway="+strings.Join(remote.Gateways, ","))
	}
	if len(remote.Nodes) > 0 {
		c.Args = append(c.Args, "--remote-node="+strings.Join(remote.Nodes, ","))
	}
	return pod
}

// read returns what a pod that looked at its node said.
func (i *Installer) read(ctx context.Context, pod *corev1.Pod, mounts bool) NodeReport {
	report := NodeReport{Cluster: i.Name, Node: pod.Spec.NodeName}
	unknown := func(why string) NodeReport {
		report.Findings = []Finding{{Check: "preflight", Level: levelLimit, What: "it can not be looked at: " + why, Do: "see that pods start on this node"}}
		return report
	}
	if pod.Status.Phase != corev1.PodSucceeded {
		return unknown(access.Why(pod))
	}
	text, err := i.Cluster.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil {
		return unknown(i.Cluster.Explain(err).Error())
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return unknown(fmt.Sprintf("what it says is no report: %v", err))
	}
	report.Cluster, report.Node = i.Name, pod.Spec.NodeName
	for n := range report.Findings {
		if f := &report.Findings[n]; mounts && f.Check == "bpffs" && f.Level == levelFail {
			f.Level, f.What, f.Do = levelFine, "an init container of the agents mounts the BPF file system", ""
		}
	}
	return report
}

// Preflight looks at clusters as Up would before it changes anything, and at all of their
// nodes. Connect, DryRun and SkipPreflight do not matter.
func Preflight(ctx context.Context, cfg UpConfig) ([]NodeReport, error) {
	members, err := plan(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	reports := make([][]NodeReport, len(members))
	err = each(members, func(m *Member) (err error) {
		reports[slices.Index(members, m)], err = m.Preflight(ctx, m.Values, others(ctx, m, members))
		return err
	})
	return slices.Concat(reports...), err
}

// lookAll has the nodes of all members looked at that have no release yet, and tells what
// some of the mesh will not work with. Where nodes can not run agents at all, the error
// says so in a sentence for each, and nothing is left of the look.
func lookAll(ctx context.Context, members []*Member) error {
	made, fails := make([]bool, len(members)), make([][]string, len(members))
	err := each(members, func(m *Member) error {
		if m.Facts.Release != nil {
			return nil // it runs
		}
		at := slices.Index(members, m)
		reports, new, err := m.look(ctx, m.Values, others(ctx, m, members))
		made[at] = new
		if err != nil {
			return err
		}
		fails[at] = m.tell(reports)
		return nil
	})
	wrong := slices.Concat(fails...)
	if err == nil && len(wrong) == 0 {
		return nil
	}
	if len(wrong) > 0 {
		err = errors.Join(err, fmt.Errorf("nothing was changed (--skip-preflight to try all the same):\n  %s", strings.Join(wrong, "\n  ")))
	}
	return errors.Join(err, each(members, func(m *Member) error { return m.giveBack(ctx, made[slices.Index(members, m)]) }))
}

// tell says what the nodes lack, and returns what they can not do without.
func (m *Member) tell(reports []NodeReport) (fails []string) {
	for n := range reports {
		for _, f := range reports[n].Worse() {
			text := fmt.Sprintf("node %s: %s", reports[n].Node, f.What)
			if f.Do != "" {
				text += ": " + f.Do
			}
			switch f.Level {
			case levelFail:
				fails = append(fails, m.Name+": "+text)
			case levelLimit:
				m.say(Note, "%s", text)
			}
		}
	}
	if len(fails) == 0 {
		m.say(Done, "%d %s looked at: agents can run there", len(reports), plural(len(reports), "node"))
	}
	return fails
}

// others returns the ways from one member's nodes to the others.
func others(ctx context.Context, m *Member, members []*Member) (out Remote) {
	for _, other := range members {
		if other == m || other.Facts == nil {
			continue
		}
		for n, ip := range other.Facts.Nodes {
			if n == remoteNodes {
				break
			}
			out.Nodes = append(out.Nodes, ip.String())
		}
		gateways, err := other.Cluster.Gateway(ctx)
		if err != nil {
			m.say(Note, "the gateway of %s is not tried: %v", other.Name, err)
		}
		out.Gateways = append(out.Gateways, gateways[:min(len(gateways), remoteNodes)]...)
	}
	return out
}
