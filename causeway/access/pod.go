package access

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Ready reports whether a pod is ready and stays.
func Ready(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func started(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running == nil {
			return false
		}
	}
	return len(pod.Status.ContainerStatuses) > 0
}

// Why says in words what a pod that is not ready waits for.
func Why(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "it is being removed"
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message != "" {
			return "no node takes it: " + oneLine(c.Message)
		}
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, c := range list {
			if text := whyContainer(&c); text != "" {
				return text
			}
		}
	}
	if pod.Status.Message != "" {
		return oneLine(pod.Status.Message)
	}
	if pod.Status.Phase == corev1.PodRunning {
		return "it runs and is not ready"
	}
	return strings.ToLower(string(pod.Status.Phase))
}

func whyContainer(c *corev1.ContainerStatus) string {
	if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
		last := ""
		if t := c.LastTerminationState.Terminated; t != nil {
			last = ended(t)
		}
		switch w.Reason {
		case "CrashLoopBackOff":
			return fmt.Sprintf("%s ended %d times%s", c.Name, c.RestartCount, last)
		case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
			return fmt.Sprintf("image %s is not to be had (%s): %s", c.Image, w.Reason, oneLine(w.Message))
		}
		return fmt.Sprintf("%s: %s: %s", c.Name, w.Reason, oneLine(w.Message))
	}
	if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
		return c.Name + " ended" + ended(t)
	}
	return ""
}

func ended(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf(", last with status %d", t.ExitCode)
	if t.Message != "" {
		lines := strings.Split(strings.TrimSpace(t.Message), "\n")
		text += ": " + oneLine(lines[len(lines)-1])
	}
	return text
}

// maxLine is how much of another's message is shown, in bytes.
const maxLine = 400

func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "") + "..."
	}
	return text
}
