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
	// in is a namespace: own for Causeway's, "" for all, and for what is in none.
	in string
}

const own = "."

// The kinds that a release has: of the whole cluster, and of its namespace.
const (
	whole = "clusterroles.rbac.authorization.k8s.io clusterrolebindings.rbac.authorization.k8s.io customresourcedefinitions.apiextensions.k8s.io"
	roles = "roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io"
	parts = "serviceaccounts services statefulsets.apps daemonsets.apps poddisruptionbudgets.policy " + roles
)

// installing takes these. What the chart's own rules hand on is another matter: mayGrant.
func installing() []right {
	return []right{
		{"list", "nodes services storageclasses.storage.k8s.io", ""},
		{"get create patch", whole, ""},
		{"get create patch delete", parts, own},
		{"get create patch delete", roles, metav1.NamespaceSystem},
		{"get list create update delete", "secrets", own},
		{"list create delete deletecollection", "pods", own},
		{"get", "pods/log", own},
		{"list", "endpointslices.discovery.k8s.io", own},
		{"create", "pods/portforward", own},
		{"list", "events", own},
	}
}

// uninstalling takes these.
func uninstalling() []right {
	return []right{
		{"list", "nodes", ""},
		{"get delete", "namespaces " + whole, ""},
		{"list delete", "endpointslices.discovery.k8s.io", ""},
		{"get delete", parts, own},
		{"get delete", roles, metav1.NamespaceSystem},
		{"patch", "daemonsets.apps", own},
		{"get list create update delete", "secrets", own},
		{"delete", "configmaps", own},
		{"list delete", "persistentvolumeclaims", own},
		{"list create deletecollection", "pods", own},
	}
}

// MayInstall returns an error that names all rights that the user lacks to install or to
// change a release.
func (i *Installer) MayInstall(ctx context.Context) error {
	rights := installing()
	if _, err := i.Cluster.Client.CoreV1().Namespaces().Get(ctx, i.Cluster.Namespace, metav1.GetOptions{}); err != nil {
		rights = append(rights, right{"get create", "namespaces", ""})
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
				text := strings.Join(verbs, ",") + " " + kind
				if space := i.space(r); space != "" {
					text += " in " + space
				}
				missing = append(missing, text)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s: the user of context %s may not %s: ask for these rights, or take another context", i.Name, i.Cluster.Context, strings.Join(missing, "; "))
}

// space is the namespace of a right.
func (i *Installer) space(r right) string {
	if r.in == own {
		return i.Cluster.Namespace
	}
	return r.in
}

// denied returns those of the verbs that the user may not do.
func (i *Installer) denied(ctx context.Context, r right, kind string, verbs []string) (out []string, err error) {
	kind, sub, _ := strings.Cut(kind, "/")
	resource, group, _ := strings.Cut(kind, ".")
	for _, verb := range verbs {
		what := authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: i.space(r)}
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

// mayGrant returns an error unless Kubernetes lets the user make the roles of a plan, those
// of namespaces that are there: nobody may give others rights that he has not himself.
func (i *Installer) mayGrant(ctx context.Context, plan *release.Plan) error {
	if !plan.Install {
		return nil
	}
	for text := range strings.SplitSeq(plan.Manifest, "\n---") {
		err := i.tryRole(ctx, []byte(text))
		switch {
		case apierrors.IsForbidden(err):
			return fmt.Errorf("%s: the user of context %s may not give Causeway the rights that it needs, as it has not all of them itself: "+
				"take a user who has them, or ask for escalate,bind of clusterroles and roles: %w", i.Name, i.Cluster.Context, err)
		case err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err):
			return i.Cluster.Explain(err)
		}
	}
	return nil
}

// tryRole asks Kubernetes whether it would make an object, if that is a role.
func (i *Installer) tryRole(ctx context.Context, object []byte) error {
	only := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	var whole rbacv1.ClusterRole
	var role rbacv1.Role
	if yaml.Unmarshal(object, &whole) == nil && whole.Kind == "ClusterRole" {
		_, err := i.Cluster.Client.RbacV1().ClusterRoles().Create(ctx, &whole, only)
		return err
	}
	if yaml.Unmarshal(object, &role) == nil && role.Kind == "Role" {
		_, err := i.Cluster.Client.RbacV1().Roles(role.Namespace).Create(ctx, &role, only)
		return err
	}
	return nil
}
