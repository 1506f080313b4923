package install

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/causeway/access"
)

// errand is what a pod does once on each node.
type errand struct {
	// what it is that is waited for.
	what string
	// name is the pods' label.
	name string
	pod  func(node string) *corev1.Pod
	// ended gets the pods, of which not all have ended when the time is over. They are
	// removed after it.
	ended func(context.Context, []corev1.Pod)
}

// onNodes runs an errand on every node of Linux, and returns how many these are. The
// pods are removed, also when ctx has ended.
func (i *Installer) onNodes(ctx context.Context, e errand) (nodes int, err error) {
	list, err := i.Cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/os!=windows"})
	if err != nil {
		return 0, i.Cluster.Explain(err)
	}
	pods := i.Cluster.Client.CoreV1().Pods(i.Cluster.Namespace)
	only := metav1.ListOptions{LabelSelector: access.NameLabel + "=" + e.name}
	remove := func(ctx context.Context) error {
		return pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, only)
	}
	// Those of an earlier command have ended, or hang.
	if err := remove(ctx); err != nil {
		return 0, i.Cluster.Explain(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = remove(ctx)
	}()
	for _, node := range list.Items {
		if _, err := pods.Create(ctx, e.pod(node.Name), metav1.CreateOptions{}); err != nil {
			return 0, i.Cluster.Explain(err)
		}
	}
	var last []corev1.Pod
	err = i.until(ctx, i.cfg.Timeout, e.what, func(ctx context.Context) (bool, string, error) {
		list, err := pods.List(ctx, only)
		if err != nil {
			return false, "", i.Cluster.Explain(err)
		}
		last = list.Items
		var waiting []string
		for n := range last {
			if pod := &last[n]; pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && pod.DeletionTimestamp == nil {
				waiting = append(waiting, fmt.Sprintf("node %s: %s", pod.Spec.NodeName, access.Why(pod)))
			}
		}
		return len(waiting) == 0, strings.Join(waiting, "; "), nil
	})
	if err != nil && ctx.Err() != nil {
		return 0, err
	}
	e.ended(ctx, last)
	return len(list.Items), nil
}

// beside returns a pod that runs a command of the agent's on one node, as the agent runs
// there: with those of its flags and of its volumes that are to stay.
func beside(agents *appsv1.DaemonSet, node, name, command string, flags []string, stays func(corev1.Volume) bool) *corev1.Pod {
	spec := *agents.Spec.Template.Spec.DeepCopy()
	spec.NodeSelector, spec.Affinity, spec.InitContainers = nil, nil, nil
	// To one node, whatever keeps others from it.
	spec.NodeName = node
	spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	spec.RestartPolicy = corev1.RestartPolicyNever
	c := spec.Containers[0]
	for _, container := range spec.Containers {
		if container.Name == access.NodeAgent {
			c = container
		}
	}
	arguments := []string{command}
	for _, arg := range c.Args {
		if flag, _, _ := strings.Cut(arg, "="); slices.Contains(flags, flag) {
			arguments = append(arguments, arg)
		}
	}
	c.Args = arguments
	c.Ports, c.StartupProbe, c.LivenessProbe, c.ReadinessProbe, c.Lifecycle = nil, nil, nil, nil, nil
	c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return !stays(v) })
	c.VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
		return !slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
	})
	spec.Containers = []corev1.Container{c}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: name + "-",
			Namespace:    agents.Namespace,
			Labels:       map[string]string{access.NameLabel: name, access.PartLabel: "causeway"},
		},
		Spec: spec,
	}
}
