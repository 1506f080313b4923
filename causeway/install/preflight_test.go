package install

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/causeway/access"
)

// agentSet is what matters of the chart's DaemonSet.
func agentSet() *appsv1.DaemonSet {
	directory, made := corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate
	volume := func(name string, kind *corev1.HostPathType) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/" + name, Type: kind}}}
	}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "causeway-system", Name: access.NodeAgent}}
	set.Spec.Template.Spec = corev1.PodSpec{
		ServiceAccountName: access.NodeAgent, PriorityClassName: "system-node-critical", HostNetwork: true,
		NodeSelector:   map[string]string{"some": "nodes"},
		InitContainers: []corev1.Container{{Name: "mount-bpffs"}},
		Volumes:        []corev1.Volume{volume("bpffs", &directory), volume("state", &made), {Name: "authority"}},
		Containers: []corev1.Container{{
			Name: access.NodeAgent, Args: []string{"--cluster-name=east", "--mesh-port=9000", "--bpffs-dir=/run/causeway/bpf/causeway"},
			VolumeMounts: []corev1.VolumeMount{{Name: "bpffs"}, {Name: "state"}, {Name: "authority"}},
		}},
	}
	return set
}

// Who looks at a node has the agent's rights there, makes no folder on it, and needs
// nothing that is installed.
func TestLookout(t *testing.T) {
	t.Parallel()
	set := agentSet()
	pod := lookout(set, "n1", Remote{Gateways: []string{"192.0.2.1:8474"}, Nodes: []string{"192.0.2.2", "192.0.2.3"}})
	want := []string{
		"preflight", "--mesh-port=9000", "--bpffs-dir=/run/causeway/bpf/causeway", "--output=json", "--node-name=n1",
		"--gateway=192.0.2.1:8474", "--remote-node=192.0.2.2,192.0.2.3",
	}
	spec := pod.Spec
	if diff := cmp.Diff(want, spec.Containers[0].Args); diff != "" {
		t.Error(diff)
	}
	if len(spec.Volumes) != 1 || spec.Volumes[0].Name != "bpffs" || len(spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("volumes %v, mounts %v", spec.Volumes, spec.Containers[0].VolumeMounts)
	}
	if spec.ServiceAccountName != "default" || *spec.AutomountServiceAccountToken || spec.PriorityClassName != "" || !spec.HostNetwork || spec.NodeName != "n1" ||
		spec.NodeSelector != nil || len(spec.InitContainers) > 0 || spec.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("pod %+v", spec)
	}
	if diff := cmp.Diff(agentSet(), set); diff != "" {
		t.Errorf("what it was made of has changed: %s", diff)
	}
	if args := lookout(set, "n1", Remote{}).Spec.Containers[0].Args; slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--gateway") || strings.HasPrefix(a, "--remote") }) {
		t.Errorf("nothing is to be tried: %v", args)
	}
}

// What nothing works with keeps a cluster out, what some does not work with is told, and
// a note is for causeway preflight alone.
func TestTell(t *testing.T) {
	t.Parallel()
	var said []string
	m := &Member{Name: "east", Installer: &Installer{Name: "east", cfg: Config{Show: func(e Event) { said = append(said, string(e.Kind)+" "+e.Text) }}}}
	fine := NodeReport{Node: "n0", Findings: []Finding{{Check: "kernel", Level: "ok", What: "it is new"}}}
	worse := NodeReport{Node: "n1", Findings: []Finding{
		{Check: "mtu", Level: "limit", What: "it is small", Do: "raise it"}, {Check: "masquerade", Level: "note", What: "somebody does"},
	}}
	if fails := m.tell([]NodeReport{fine, worse}); fails != nil || worse.Failed() {
		t.Errorf("kept out: %v", fails)
	}
	if diff := cmp.Diff([]string{"note node n1: it is small: raise it", "done 2 nodes looked at: agents can run there"}, said); diff != "" {
		t.Error(diff)
	}
	said = nil
	failed := NodeReport{Node: "n2", Findings: []Finding{{Check: "kernel", Level: "fail", What: "it is old", Do: "another one"}}}
	if diff := cmp.Diff([]string{"east: node n2: it is old: another one"}, m.tell([]NodeReport{fine, failed})); diff != "" || !failed.Failed() || said != nil {
		t.Errorf("%s, said %v", diff, said)
	}
}
