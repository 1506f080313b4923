package install

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/causeway/release"
)

// right is what a user may have to do: verbs on kinds of objects, as "daemonsets.apps".
type right struct {
	verbs, kinds string
	// everywhere is for all namespaces, and what is in none.
	everywhere bool
}

// installing takes these. What the chart's own rules hand on is another matter: mayGrant.
func installing() []right {
	return []right{
		{"list", "nodes services storageclasses.storage.k8s.io", true},
		{"get create patch", "clusterroles.rbac.authorization.k8s.io clusterrolebindings.rbac.authorization.k8s.io customresourcedefinitions.apiextensions.k8s.io", true},
		{"get create patch delete", "serviceaccounts services statefulsets.apps daemonsets.apps poddisruptionbudgets.policy " +
			"roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io", false},
		{"get list create update delete", "secrets", false},
		{"list create delete deletecollection", "pods", false},
		{"get", "pods/log", false},
		{"create", "pods/portforward", false},
		{"list", "events", false},
	}
}

// uninstalling takes these.
func uninstalling() []right {
	return []right{
		{"list", "nodes", true},
		{"get delete", "namespaces clusterroles.rbac.authorization.k8s.io clusterrolebindings.rbac.authorization.k8s.io customresourcedefinitions.apiextensions.k8s.io", true},
		{"list delete", "endpointslices.discovery.k8s.io", true},
		{"get delete", "serviceaccounts services statefulsets.apps daemonsets.apps poddisruptionbudgets.policy " +
			"roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io", false},
		{"patch", "daemonsets.apps", false},
		{"get list create update delete", "secrets", false},
		{"delete", "configmaps", false},
		{"list delete", "persistentvolumeclaims", false},
		{"list create deletecollection", "pods", false},
	}
}

// MayInstall returns an error that names all rights that the user lacks to install or to
// change a release.
func (i *Installer) MayInstall(ctx context.Context) error {
	rights := installing()
	if _, err := i.Cluster.Client.CoreV1().Namespaces().Get(ctx, i.Cluster.Namespace, metav1.GetOptions{}); err != nil {
		rights = append(rights, right{"get create", "namespaces", true})
	}
	return i.may(ctx, rights)
}

// parallelReviews is how many rights are asked for at a time.
const parallelReviews = 8

func (i *Installer) may(ctx context.Context, rights []right) error {
	denied := make([][][]string, len(rights))
	var group errgroup.Group
	group.SetLimit(parallelReviews)
	for n, r := range rights {
		kinds, verbs := strings.Fields(r.kinds), strings.Fields(r.verbs)
		denied[n] = make([][]string, len(kinds))
		for k, kind := range kinds {
			group.Go(func() (err error) {
				denied[n][k], err = i.denied(ctx, r, kind, verbs)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return i.Cluster.Explain(err)
	}
	var missing []string
	for n, r := range rights {
		for k, kind := range strings.Fields(r.kinds) {
			if verbs := denied[n][k]; len(verbs) > 0 {
				where := ""
				if !r.everywhere {
					where = " in " + i.Cluster.Namespace
				}
				missing = append(missing, strings.Join(verbs, ",")+" "+kind+where)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s: the user of context %s may not %s: ask for these rights, or take another context", i.Name, i.Cluster.Context, strings.Join(missing, "; "))
}

// denied returns those of the verbs that the user may not do.
func (i *Installer) denied(ctx context.Context, r right, kind string, verbs []string) (out []string, err error) {
	kind, sub, _ := strings.Cut(kind, "/")
	resource, group, _ := strings.Cut(kind, ".")
	for _, verb := range verbs {
		what := authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: i.Cluster.Namespace}
		if r.everywhere {
			what.Namespace = ""
		}
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}
		answer, err := i.Cluster.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		if !answer.Status.Allowed {
			out = append(out, verb)
		}
	}
	return out, nil
}

// plan is what the release would become with these values, if the user may grant the
// rights that it has for Causeway.
func (i *Installer) plan(ctx context.Context, values map[string]any) (*release.Plan, error) {
	plan, err := i.releases.Plan(ctx, values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", i.Name, err)
	}
	return plan, i.mayGrant(ctx, plan)
}

// mayGrant returns an error unless Kubernetes lets the user make the ClusterRoles of a
// plan: nobody may give others rights that he has not, or has not the right to.
func (i *Installer) mayGrant(ctx context.Context, plan *release.Plan) error {
	if !plan.Install {
		return nil
	}
	for text := range strings.SplitSeq(plan.Manifest, "\n---") {
		var role rbacv1.ClusterRole
		if yaml.Unmarshal([]byte(text), &role) != nil || role.Kind != "ClusterRole" {
			continue
		}
		_, err := i.Cluster.Client.RbacV1().ClusterRoles().Create(ctx, &role, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		switch {
		case apierrors.IsForbidden(err):
			return fmt.Errorf("%s: the user of context %s may not give Causeway the rights that it needs, as it has not all of them itself: "+
				"take a user who has them, or ask for escalate,bind of clusterroles and roles: %w", i.Name, i.Cluster.Context, err)
		case err != nil && !apierrors.IsAlreadyExists(err):
			return i.Cluster.Explain(err)
		}
	}
	return nil
}
