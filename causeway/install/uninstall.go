package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/causeway/access"
	"github.com/causeway-mesh/causeway/causeway/release"
)

// UninstallOptions say what is to stay.
type UninstallOptions struct {
	// KeepData leaves the volumes, and the Secrets in which state is.
	KeepData bool
	// KeepCRDs leaves the definition of ClusterPeer and the objects of it.
	KeepCRDs bool
	// Force goes on where a node cannot be cleaned.
	Force  bool
	DryRun bool
}

// UninstallAll takes Causeway out of all clusters at the same time; of none, if the user
// may not do it in one of them.
func UninstallAll(ctx context.Context, clusters []*Installer, o UninstallOptions) error {
	if err := each(clusters, func(i *Installer) error { return i.may(ctx, uninstalling()) }); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	return each(clusters, func(i *Installer) error { return i.Uninstall(ctx, o) })
}

// Uninstall takes Causeway away: the agents, what they left in the kernel of each
// node, the release, and what was written at run time. Nothing is an error because it
// is gone already.
func (i *Installer) Uninstall(ctx context.Context, o UninstallOptions) error {
	state, err := i.Current()
	if err != nil {
		return err
	}
	if name, ok := release.At(valuesOf(state), "cluster", "name").(string); ok {
		i.Name = name
	}
	if o.DryRun {
		return i.showRemoval(ctx, state, o)
	}
	if err := i.cleanNodes(ctx, o.Force); err != nil {
		return err
	}
	if state == nil {
		i.say(Note, "there is no release %s in namespace %s", i.cfg.Release, i.Cluster.Namespace)
	} else {
		if o.KeepData {
			if err := i.keepValues(ctx, state.Values); err != nil {
				return err
			}
		}
		if err := i.releases.Remove(i.cfg.Timeout); err != nil {
			return fmt.Errorf("%s: %w; run the same command again", i.Name, i.Cluster.Explain(err))
		}
		i.say(Done, "release %s is gone", i.cfg.Release)
	}
	if err := i.removeWritten(ctx, o); err != nil {
		return err
	}
	if !o.KeepCRDs {
		if err := i.removeDefinition(ctx); err != nil {
			return err
		}
	}
	return i.removeNamespace(ctx, o)
}

func valuesOf(state *release.State) map[string]any {
	if state == nil {
		return nil
	}
	return state.Values
}

// cleanNodes removes the agents, and then what they left in each node's kernel.
func (i *Installer) cleanNodes(ctx context.Context, force bool) error {
	sets := i.Cluster.Client.AppsV1().DaemonSets(i.Cluster.Namespace)
	agents, err := sets.Get(ctx, access.NodeAgent, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil // nodes are cleaned before it goes
	case err != nil:
		return i.Cluster.Explain(err)
	}
	if err := i.stopAgents(ctx, agents); err != nil {
		return err
	}
	dirty, err := i.runCleanups(ctx, agents)
	if err != nil {
		return err
	}
	if len(dirty) > 0 {
		text := strings.Join(dirty, "\n  ")
		if !force {
			return fmt.Errorf("%s: not all nodes are clean, and the rest of Causeway stays until they are (or give --force, and run `node-agent cleanup` there):\n  %s", i.Name, text)
		}
		i.say(Note, "not clean, `node-agent cleanup` has to be run there: %s", strings.Join(dirty, "; "))
	}
	return nil
}

// parked is a label that no node has.
const parked = "causeway.io/uninstalled"

// stopAgents takes the agents off all nodes. The DaemonSet stays, as what says how to
// run a clean-up, until all nodes are clean.
func (i *Installer) stopAgents(ctx context.Context, agents *appsv1.DaemonSet) error {
	if agents.Spec.Template.Spec.NodeSelector[parked] == "" {
		patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:"true"}}}}}`, parked)
		_, err := i.Cluster.Client.AppsV1().DaemonSets(i.Cluster.Namespace).Patch(ctx, agents.Name, mergePatch, []byte(patch), metav1.PatchOptions{FieldManager: "causeway"})
		if err != nil {
			return i.Cluster.Explain(err)
		}
	}
	return i.until(ctx, i.cfg.Timeout, "end of the agents", func(ctx context.Context) (bool, string, error) {
		list, err := i.Cluster.Client.CoreV1().Pods(i.Cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: access.NameLabel + "=" + access.NodeAgent})
		if err != nil {
			return false, "", i.Cluster.Explain(err)
		}
		left := list.Items
		names := make([]string, 0, len(left))
		for _, pod := range left {
			names = append(names, pod.Name+" on "+pod.Spec.NodeName)
		}
		return len(left) == 0, "still there: " + strings.Join(names, ", "), nil
	})
}

// unpark lets agents run again where an uninstall was begun and given up.
func (i *Installer) unpark(ctx context.Context) error {
	sets := i.Cluster.Client.AppsV1().DaemonSets(i.Cluster.Namespace)
	agents, err := sets.Get(ctx, access.NodeAgent, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && agents.Spec.Template.Spec.NodeSelector[parked] == "" {
		return nil
	}
	if err == nil {
		patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:null}}}}}`, parked)
		_, err = sets.Patch(ctx, agents.Name, mergePatch, []byte(patch), metav1.PatchOptions{FieldManager: "causeway"})
	}
	return i.Cluster.Explain(err)
}

// cleaner is the label of the pods that clean nodes.
const cleaner = "causeway-cleanup"

// runCleanups runs `node-agent cleanup` on every node and returns where it did not
// succeed, with why.
func (i *Installer) runCleanups(ctx context.Context, agents *appsv1.DaemonSet) (dirty []string, err error) {
	var last []corev1.Pod
	nodes, err := i.onNodes(ctx, errand{
		what: "clean nodes", name: cleaner, pod: func(node string) *corev1.Pod { return cleanup(agents, node) },
		ended: func(_ context.Context, pods []corev1.Pod) { last = pods },
	})
	if err != nil {
		return nil, err
	}
	return i.judge(last, nodes), nil
}

// judge says where a clean-up did not succeed.
func (i *Installer) judge(pods []corev1.Pod, nodes int) (dirty []string) {
	removed := 0
	for n := range pods {
		pod := &pods[n]
		said := ""
		for _, c := range pod.Status.ContainerStatuses {
			if t := c.State.Terminated; t != nil {
				said = strings.TrimSpace(t.Message)
			}
		}
		switch pod.Status.Phase {
		case corev1.PodSucceeded:
			removed++
		default:
			why := access.Why(pod)
			if said != "" {
				why = said
			}
			dirty = append(dirty, fmt.Sprintf("node %s: %s", pod.Spec.NodeName, why))
		}
	}
	slices.Sort(dirty)
	if removed > 0 {
		i.say(Done, "the agents are gone, and %d of %d %s clean", removed, nodes, plural(nodes, "node"))
	}
	return dirty
}

// cleanup returns a pod that runs on one node what takes Causeway out of its kernel,
// as the agent ran there.
func cleanup(agents *appsv1.DaemonSet, node string) *corev1.Pod {
	// It needs nothing of the API server, whose ConfigMap may be gone.
	return beside(agents, node, cleaner, "cleanup", []string{"--bpffs-dir"}, func(v corev1.Volume) bool { return v.HostPath != nil })
}
