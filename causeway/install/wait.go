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
)

// Wait returns once the API server and all agents run as the release says, and are
// ready.
func (i *Installer) Wait(ctx context.Context) error {
	if err := i.until(ctx, i.cfg.Timeout, "API server", i.apiServer); err != nil {
		return err
	}
	i.say(Done, "the API server runs")
	if err := i.until(ctx, i.cfg.Timeout, "answer from the API server", i.answers); err != nil {
		return err
	}
	if err := i.until(ctx, i.cfg.Timeout, "agents on all nodes", i.agents); err != nil {
		return err
	}
	return i.Ready(ctx)
}

// Ready returns once the API server says that all is ready.
func (i *Installer) Ready(ctx context.Context) error {
	var agents int
	err := i.until(ctx, i.cfg.Timeout, "readiness", func(ctx context.Context) (bool, string, error) {
		answer, err := i.cfg.Ask(ctx, i.Cluster)
		if err != nil {
			return false, "", err
		}
		agents = len(answer.Agents)
		return answer.Ready, strings.Join(i.cfg.Unready(answer), "; "), nil
	})
	if err == nil {
		i.say(Done, "ready: agents on %d %s", agents, plural(agents, "node"))
	}
	return err
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

func (i *Installer) answers(ctx context.Context) (bool, string, error) {
	_, err := i.cfg.Ask(ctx, i.Cluster)
	return err == nil, "", err
}

func (i *Installer) apiServer(ctx context.Context) (bool, string, error) {
	set, err := i.Cluster.Client.AppsV1().StatefulSets(i.Cluster.Namespace).Get(ctx, access.APIServer, metav1.GetOptions{})
	if err != nil {
		return false, "", i.Cluster.Explain(err)
	}
	if rolledOut(set) {
		return true, "", nil
	}
	if err := i.removeStuck(ctx, set); err != nil {
		return false, "", err
	}
	why, err := i.whyNot(ctx, access.APIServer, "StatefulSet")
	return false, why, err
}

// removeStuck removes pods of a former state of a StatefulSet that are not ready:
// Kubernetes waits until they are before it makes those of the present one, and with an
// image that nobody has that is never (kubernetes/kubernetes#67250).
func (i *Installer) removeStuck(ctx context.Context, set *appsv1.StatefulSet) error {
	if set.Status.ObservedGeneration < set.Generation || set.Status.UpdateRevision == "" {
		return nil // the present state is not known yet
	}
	pods := i.Cluster.Client.CoreV1().Pods(i.Cluster.Namespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: access.NameLabel + "=" + set.Name})
	if err != nil {
		return i.Cluster.Explain(err)
	}
	for n := range list.Items {
		pod := &list.Items[n]
		if access.Ready(pod) || pod.DeletionTimestamp != nil || pod.Labels[appsv1.ControllerRevisionHashLabelKey] == set.Status.UpdateRevision {
			continue
		}
		only := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
		switch err := pods.Delete(ctx, pod.Name, only); {
		case err == nil:
			i.say(Note, "pod %s of before this change is not ready (%s), and would be waited for: it is replaced", pod.Name, access.Why(pod))
		case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
			return i.Cluster.Explain(err)
		}
	}
	return nil
}

func rolledOut(set *appsv1.StatefulSet) bool {
	want := int32(1)
	if set.Spec.Replicas != nil {
		want = *set.Spec.Replicas
	}
	s := set.Status
	return s.ObservedGeneration >= set.Generation && s.ReadyReplicas >= want && s.UpdatedReplicas >= want && s.Replicas == want
}

func (i *Installer) agents(ctx context.Context) (bool, string, error) {
	set, err := i.Cluster.Client.AppsV1().DaemonSets(i.Cluster.Namespace).Get(ctx, access.NodeAgent, metav1.GetOptions{})
	if err != nil {
		return false, "", i.Cluster.Explain(err)
	}
	s := set.Status
	if s.ObservedGeneration >= set.Generation && s.DesiredNumberScheduled > 0 && s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled {
		return true, "", nil
	}
	why, err := i.whyNot(ctx, access.NodeAgent, "DaemonSet")
	if why == "" {
		why = "no node is there for them"
	}
	return false, fmt.Sprintf("%d of %d ready: %s", s.NumberReady, s.DesiredNumberScheduled, why), err
}

// maxReasons is how many pods' reasons are shown.
const maxReasons = 3

// whyNot says what the pods of a workload wait for, or why there are none.
func (i *Installer) whyNot(ctx context.Context, name, kind string) (string, error) {
	list, err := i.Cluster.Client.CoreV1().Pods(i.Cluster.Namespace).List(ctx, metav1.ListOptions{LabelSelector: access.NameLabel + "=" + name})
	if err != nil {
		return "", i.Cluster.Explain(err)
	}
	var reasons []string
	for n := range list.Items {
		pod := &list.Items[n]
		if access.Ready(pod) {
			continue
		}
		why := access.Why(pod)
		if why == "pending" {
			why = i.orEvent(ctx, "Pod", pod.Name, "it starts")
		}
		where := ""
		if pod.Spec.NodeName != "" {
			where = " on " + pod.Spec.NodeName
		}
		reasons = append(reasons, fmt.Sprintf("pod %s%s: %s", pod.Name, where, why))
	}
	slices.Sort(reasons)
	if len(reasons) > maxReasons {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more", len(reasons)-maxReasons))
	}
	if len(list.Items) == 0 {
		reasons = append(reasons, i.orEvent(ctx, kind, name, "its pods are about to be made"))
	}
	if len(reasons) == 0 {
		reasons = append(reasons, "the old pods are being replaced")
	}
	return strings.Join(reasons, "; "), nil
}

// orEvent returns the last warning about an object, else what is given.
func (i *Installer) orEvent(ctx context.Context, kind, name, otherwise string) string {
	list, err := i.Cluster.Client.CoreV1().Events(i.Cluster.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fmt.Sprintf("involvedObject.kind=%s,involvedObject.name=%s,type=%s", kind, name, corev1.EventTypeWarning),
	})
	if err != nil || len(list.Items) == 0 {
		return otherwise
	}
	last := slices.MaxFunc(list.Items, func(a, b corev1.Event) int {
		return a.LastTimestamp.Compare(b.LastTimestamp.Time)
	})
	return strings.Join(strings.Fields(last.Message), " ")
}

// gateway returns an address at which others reach the gateway, "" while there is
// none, and the type of its Service.
func (i *Installer) gateway(ctx context.Context) (address string, kind corev1.ServiceType, err error) {
	service, err := i.Cluster.Client.CoreV1().Services(i.Cluster.Namespace).Get(ctx, access.APIServer, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", "", nil
	}
	if err != nil {
		return "", "", i.Cluster.Explain(err)
	}
	for _, in := range service.Status.LoadBalancer.Ingress {
		if in.IP+in.Hostname != "" {
			return in.IP + in.Hostname, service.Spec.Type, nil
		}
	}
	return "", service.Spec.Type, nil
}
