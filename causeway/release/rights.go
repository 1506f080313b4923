package release

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// right is one thing that a role lets do.
type right struct{ verb, resource, name string }

// takeRights returns what the rules of a role let do, one by one, and takes them out
// of the object: which rule stands where says nothing. It is nil for other kinds.
func takeRights(object map[string]any) map[right]bool {
	if kind := object["kind"]; kind != "Role" && kind != "ClusterRole" {
		return nil
	}
	rules, _ := object["rules"].([]any)
	delete(object, "rules")
	found := map[right]bool{}
	for _, one := range rules {
		rule, _ := one.(map[string]any)
		names := texts(rule["resourceNames"])
		if len(names) == 0 {
			names = []string{""} // all of them
		}
		for _, resource := range append(resourcesOf(rule), texts(rule["nonResourceURLs"])...) {
			for _, verb := range texts(rule["verbs"]) {
				for _, name := range names {
					found[right{verb, resource, name}] = true
				}
			}
		}
	}
	return found
}

// resourcesOf returns the resources of a rule as Kubernetes names them: pods,
// endpointslices.discovery.k8s.io.
func resourcesOf(rule map[string]any) (out []string) {
	for _, group := range texts(rule["apiGroups"]) {
		for _, resource := range texts(rule["resources"]) {
			out = append(out, strings.TrimSuffix(resource+"."+group, "."))
		}
	}
	return out
}

// texts returns the texts of a list.
func texts(list any) (out []string) {
	values, _ := list.([]any)
	for _, v := range values {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// rightLines says what a role lets do that it did not, and what it does no more.
func rightLines(name string, old, now map[right]bool) []string {
	var lines []string
	for _, text := range inWords(now, old) {
		lines = append(lines, fmt.Sprintf("~ %s: may also %s", name, text))
	}
	for _, text := range inWords(old, now) {
		lines = append(lines, fmt.Sprintf("~ %s: may no longer %s", name, text))
	}
	return lines
}

// mayWords says what a new role lets do, "" for nothing.
func mayWords(rights map[right]bool) string {
	if len(rights) == 0 {
		return ""
	}
	return ": may " + strings.Join(inWords(rights, nil), "; ")
}

// inWords says which rights are in one set and not in another, those of a resource
// together: "get, list pods".
func inWords(in, not map[right]bool) []string {
	verbs := map[right][]string{} // of a resource and name
	for r := range in {
		if !not[r] {
			of := right{resource: r.resource, name: r.name}
			verbs[of] = append(verbs[of], r.verb)
		}
	}
	names := map[string][]string{} // by verbs and resource
	for of, some := range verbs {
		slices.Sort(some)
		text := strings.Join(some, ", ") + " " + of.resource
		if of.name != "" {
			text += " named"
		}
		names[text] = append(names[text], of.name)
	}
	var lines []string
	for _, text := range slices.Sorted(maps.Keys(names)) {
		some := names[text]
		slices.Sort(some)
		lines = append(lines, strings.TrimSpace(text+" "+strings.Join(some, ", ")))
	}
	return lines
}
