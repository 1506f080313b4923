package install

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/causeway-mesh/causeway/causeway/release"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/kube/ranges"
)

// oldest is the minor version of Kubernetes from which tokens of pods say their node.
const oldest = 32

// defaultClass marks the StorageClass that claims get which name none.
const defaultClass = "storageclass.kubernetes.io/is-default-class"

// fromNodes says that only the nodes tell where pods have their addresses.
const fromNodes = "its nodes"

// Facts are what has to be known of a cluster before Causeway goes there.
type Facts struct {
	// Release is what is there already, nil where nothing is.
	Release *release.State
	// Values are the release's, or those that it had when it went without its data; nil
	// where there was none.
	Values map[string]any
	// Pods are where its pods have their addresses, and From says who says so.
	Pods []netip.Prefix
	From string
	// Services are where its Services have theirs.
	Services []netip.Prefix
	// Nodes are their own addresses.
	Nodes []netip.Addr
	// StorageClass says that claims find a volume by default.
	StorageClass bool
	// LoadBalancer says that there is something that gives Services addresses.
	LoadBalancer bool
}

// Inspect looks at the cluster, and returns with what it found all that keeps
// Causeway out of it, a sentence each.
func (i *Installer) Inspect(ctx context.Context) (*Facts, []string) {
	facts := &Facts{}
	version, err := i.Cluster.Client.Discovery().ServerVersion()
	if err != nil {
		return facts, []string{i.Cluster.Explain(err).Error()}
	}
	var wrong []string
	if text := tooOld(version.Major, version.Minor); text != "" {
		wrong = append(wrong, i.Name+": "+text)
	}
	if err := i.MayInstall(ctx); err != nil {
		return facts, append(wrong, err.Error()) // what follows would say the same once more
	}
	if facts.Release, err = i.Current(); err != nil {
		return facts, append(wrong, err.Error())
	}
	if facts.Release != nil {
		facts.Values = facts.Release.Values
	} else if facts.Values, err = i.kept(ctx); err != nil {
		return facts, append(wrong, err.Error())
	}
	if facts.Release != nil && facts.Release.Leaving {
		wrong = append(wrong, fmt.Sprintf("%s: taking Causeway away was begun and not finished: `causeway uninstall --context %s` does that", i.Name, i.Cluster.Context))
	}
	for _, look := range []func(context.Context, *Facts) error{i.lookAtNodes, i.lookAtStorage, i.lookAtServices, i.lookAtRanges} {
		if err := look(ctx, facts); err != nil {
			wrong = append(wrong, i.Cluster.Explain(err).Error())
		}
	}
	if len(facts.Nodes) == 0 && len(wrong) == 0 {
		wrong = append(wrong, i.Name+": it has no node that is ready: Causeway's API server needs one to run on")
	}
	return facts, wrong
}

var digits = regexp.MustCompile(`^\d+`)

func tooOld(major, minor string) string {
	a, err1 := strconv.Atoi(digits.FindString(major))
	b, err2 := strconv.Atoi(digits.FindString(minor))
	if err := errors.Join(err1, err2); err != nil {
		return "" // a version that says nothing is not judged
	}
	if a > 1 || b >= oldest {
		return ""
	}
	return fmt.Sprintf("Kubernetes %d.%d is too old: agents get their certificates by what tokens say from 1.%d on", a, b, oldest)
}

func (i *Installer) lookAtNodes(ctx context.Context, facts *Facts) error {
	list, err := i.Cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, node := range list.Items {
		for _, c := range node.Status.Conditions {
			if c.Type != corev1.NodeReady || c.Status != corev1.ConditionTrue {
				continue
			}
			for _, a := range node.Status.Addresses {
				if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
					facts.Nodes = append(facts.Nodes, ip)
				}
			}
		}
		for _, text := range node.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				facts.Pods = append(facts.Pods, p)
				facts.From = fromNodes
			}
		}
		// A cloud that names its nodes also has load balancers; kind names them, too.
		provider, _, named := strings.Cut(node.Spec.ProviderID, "://")
		if named && provider != "kind" && provider != "k3s" {
			facts.LoadBalancer = true
		}
	}
	return nil
}

func (i *Installer) lookAtStorage(ctx context.Context, facts *Facts) error {
	list, err := i.Cluster.Client.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, class := range list.Items {
		facts.StorageClass = facts.StorageClass || class.Annotations[defaultClass] == "true"
	}
	return nil
}

func (i *Installer) lookAtServices(ctx context.Context, facts *Facts) error {
	list, err := i.Cluster.Client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, s := range list.Items {
		if len(s.Status.LoadBalancer.Ingress) > 0 {
			facts.LoadBalancer = true
		}
	}
	return nil
}

// lookAtRanges takes what whoever hands out addresses says, before what nodes have.
func (i *Installer) lookAtRanges(ctx context.Context, facts *Facts) error {
	found, err := kube.FindRanges(ctx, i.Cluster.Rest, "causeway", i.cfg.Version)
	if err != nil {
		return err
	}
	if len(found.Pods.Ranges) > 0 {
		facts.Pods, facts.From = found.Pods.Ranges, found.Pods.From
	} else {
		facts.Pods, facts.From = ranges.Aggregate(facts.Pods), fromNodes
	}
	facts.Services = found.Services.Ranges
	return nil
}

// PodRanges returns where the cluster's pods are: what the values say counts before
// what was found.
func PodRanges(values map[string]any, facts *Facts) ([]netip.Prefix, string) {
	list, _ := release.At(values, "cluster", "podCIDRs").([]any)
	var given []netip.Prefix
	for _, text := range list {
		if p, err := netip.ParsePrefix(fmt.Sprint(text)); err == nil {
			given = append(given, p.Masked())
		}
	}
	if len(given) > 0 {
		return given, "cluster.podCIDRs"
	}
	return facts.Pods, facts.From
}
