package mesh

import (
	"bufio"
	"fmt"
	"io"
)

// WriteServices writes the manifests of a cluster that has all services of the
// spec's clusters as global ones, and none of their backends.
func (s Spec) WriteServices(w io.Writer) error {
	for c := range s.Clusters {
		if err := (Remote{Spec: s, Index: c}).WriteServices(w); err != nil {
			return err
		}
	}
	return nil
}

// WriteServices does so for the services of one of the clusters. The form is JSON,
// several objects a file as in YAML.
func (r Remote) WriteServices(w io.Writer) error {
	out := bufio.NewWriter(w)
	for i := range r.Services {
		name := r.ServiceName(i)
		fmt.Fprintf(out, `---
{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"namespace":%q,"annotations":{"causeway.io/global":"true"}},`+
			`"spec":{"type":"ClusterIP","clusterIP":%q,"clusterIPs":[%[3]q],"ports":[{"name":%q,"protocol":"TCP","port":%d,"targetPort":%d}]}}
`, name.Name, name.Namespace, r.Frontend(i).Addr(), portName, Port, TargetPort)
	}
	return out.Flush()
}

// WritePods writes the manifests of pods with as many different sets of labels
// as sets says, and the node on which they run.
func WritePods(w io.Writer, pods, sets int) error {
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-0"},"status":{"addresses":[{"type":"InternalIP","address":"192.168.0.1"}]}}`)
	for i := range pods {
		fmt.Fprintf(out, `---
{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":%q,"uid":"%032d","labels":{"app":"app-%d","tier":"backend"}},`+
			`"spec":{"nodeName":"node-0","serviceAccountName":"default","containers":[{"name":"app","image":"app"}]},`+
			`"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%[5]q}],"hostIP":"192.168.0.1","conditions":[{"type":"Ready","status":"True"}]}}
`, podName(i), namespace(i%sets), i, i%sets, offset("10.0.0.0", i+1))
	}
	return out.Flush()
}
