package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// What should answer is read off the manifests by rules of our own, not by what
// is shown.

// readyPods returns the names of the Pods that the Service selects, that run,
// are ready, and are not being deleted; sorted.
func readyPods(c *lab.Cluster) ([]string, error) {
	service, err := find(c, "Service")
	if err != nil {
		return nil, err
	}
	selector, _ := at(service, "spec", "selector").(map[string]any)
	objects, err := c.Objects()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, o := range objects {
		if o.Kind() == "Pod" && o.Namespace() == namespace && selects(selector, o) &&
			at(o, "status", "phase") == "Running" && isReady(o) && at(o, "metadata", "deletionTimestamp") == nil {
			out = append(out, o.Name())
		}
	}
	slices.Sort(out)
	if len(out) == 0 {
		return nil, fmt.Errorf("cluster %s has no ready pod of %s/%s", c.Name, namespace, name)
	}
	return out, nil
}

func selects(selector map[string]any, o lab.Object) bool {
	for key, value := range selector {
		if at(o, "metadata", "labels", key) != value {
			return false
		}
	}
	return len(selector) > 0
}

func isReady(o lab.Object) bool {
	conditions, _ := at(o, "status", "conditions").([]any)
	return slices.ContainsFunc(conditions, func(c any) bool {
		fields, _ := c.(map[string]any)
		return fields["type"] == "Ready" && fields["status"] == "True"
	})
}

// address returns the Service's cluster IP with its first port.
func address(c *lab.Cluster) (string, error) {
	service, err := find(c, "Service")
	if err != nil {
		return "", err
	}
	ip, _ := at(service, "spec", "clusterIP").(string)
	ports, _ := at(service, "spec", "ports").([]any)
	if ip == "" || len(ports) == 0 {
		return "", fmt.Errorf("service %s/%s of %s has no address", namespace, name, c.Name)
	}
	first, _ := ports[0].(map[string]any)
	port, err := strconv.Atoi(fmt.Sprint(first["port"]))
	if err != nil {
		return "", fmt.Errorf("service %s/%s of %s: port: %w", namespace, name, c.Name, err)
	}
	return net.JoinHostPort(ip, strconv.Itoa(port)), nil
}

func find(c *lab.Cluster, kind string) (lab.Object, error) {
	objects, err := c.Objects()
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if o.Kind() == kind && o.Namespace() == namespace && o.Name() == name {
			return o, nil
		}
	}
	return nil, fmt.Errorf("cluster %s has no %s %s/%s", c.Name, kind, namespace, name)
}

// at walks down the maps of an object; nil where there is nothing.
func at(o lab.Object, path ...string) any {
	var v any = map[string]any(o)
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}
