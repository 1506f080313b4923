package source

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The types below are what is read of a manifest: the fields that a mesh looks
// at. That keeps tens of thousands of Pods in little memory, lets an object that
// only got a new heartbeat count as unchanged, and nothing that is wrong with a
// volume or a machine id, which YAML takes for a number, stands in the way. Each is
// turned into what an API server would give, and reduced like that.

// meta is what is read of an object's metadata.
type meta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               types.UID         `json:"uid"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	CreationTimestamp metav1.Time       `json:"creationTimestamp"`
	DeletionTimestamp *metav1.Time      `json:"deletionTimestamp"`
}

func (m *meta) cluster() metav1.ObjectMeta {
	o := m.namespaced()
	o.Namespace = ""
	return o
}

func (m *meta) namespaced() metav1.ObjectMeta {
	if m.Namespace == "" {
		m.Namespace = metav1.NamespaceDefault
	}
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, Labels: m.Labels, Annotations: m.Annotations,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
	}
}

type namespaceManifest struct {
	Metadata meta `json:"metadata"`
}

func (m *namespaceManifest) object() Object {
	return reduce(&corev1.Namespace{ObjectMeta: m.Metadata.cluster()})
}

type nodeManifest struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		PodCIDR  string   `json:"podCIDR"`
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses  []corev1.NodeAddress `json:"addresses"`
		Conditions []struct {
			Type   corev1.NodeConditionType `json:"type"`
			Status corev1.ConditionStatus   `json:"status"`
		} `json:"conditions"`
		NodeInfo struct {
			BootID string `json:"bootID"`
		} `json:"nodeInfo"`
	} `json:"status"`
}

func (m *nodeManifest) object() Object {
	n := &corev1.Node{
		ObjectMeta: m.Metadata.cluster(),
		Spec:       corev1.NodeSpec{PodCIDR: m.Spec.PodCIDR, PodCIDRs: m.Spec.PodCIDRs},
		Status: corev1.NodeStatus{
			Addresses: m.Status.Addresses,
			NodeInfo:  corev1.NodeSystemInfo{BootID: m.Status.NodeInfo.BootID},
		},
	}
	for _, c := range m.Status.Conditions {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status})
	}
	return reduce(n)
}

type containerManifest struct {
	Name          string                         `json:"name"`
	Ports         []corev1.ContainerPort         `json:"ports"`
	RestartPolicy *corev1.ContainerRestartPolicy `json:"restartPolicy"`
}

func containers(manifests []containerManifest) []corev1.Container {
	var found []corev1.Container
	for _, m := range manifests {
		found = append(found, corev1.Container{Name: m.Name, Ports: m.Ports, RestartPolicy: m.RestartPolicy})
	}
	return found
}

type podManifest struct {
	Metadata meta `json:"metadata"`
	Spec     struct {
		NodeName           string              `json:"nodeName"`
		ServiceAccountName string              `json:"serviceAccountName"`
		HostNetwork        bool                `json:"hostNetwork"`
		Hostname           string              `json:"hostname"`
		Subdomain          string              `json:"subdomain"`
		Containers         []containerManifest `json:"containers"`
		InitContainers     []containerManifest `json:"initContainers"`
	} `json:"spec"`
	Status struct {
		Phase      corev1.PodPhase `json:"phase"`
		HostIP     string          `json:"hostIP"`
		HostIPs    []corev1.HostIP `json:"hostIPs"`
		PodIP      string          `json:"podIP"`
		PodIPs     []corev1.PodIP  `json:"podIPs"`
		Conditions []struct {
			Type   corev1.PodConditionType `json:"type"`
			Status corev1.ConditionStatus  `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

func (m *podManifest) object() Object {
	p := &corev1.Pod{
		ObjectMeta: m.Metadata.namespaced(),
		Spec: corev1.PodSpec{
			NodeName: m.Spec.NodeName, ServiceAccountName: m.Spec.ServiceAccountName, HostNetwork: m.Spec.HostNetwork,
			Hostname: m.Spec.Hostname, Subdomain: m.Spec.Subdomain,
			Containers: containers(m.Spec.Containers), InitContainers: containers(m.Spec.InitContainers),
		},
		Status: corev1.PodStatus{
			Phase: m.Status.Phase, HostIP: m.Status.HostIP, HostIPs: m.Status.HostIPs, PodIP: m.Status.PodIP, PodIPs: m.Status.PodIPs,
		},
	}
	for _, c := range m.Status.Conditions {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status})
	}
	return reduce(p)
}

type serviceManifest struct {
	Metadata meta               `json:"metadata"`
	Spec     corev1.ServiceSpec `json:"spec"`
	Status   struct {
		LoadBalancer corev1.LoadBalancerStatus `json:"loadBalancer"`
	} `json:"status"`
}

func (m *serviceManifest) object() Object {
	return reduce(&corev1.Service{
		ObjectMeta: m.Metadata.namespaced(), Spec: m.Spec,
		Status: corev1.ServiceStatus{LoadBalancer: m.Status.LoadBalancer},
	})
}

type endpointSliceManifest struct {
	Metadata    meta                       `json:"metadata"`
	AddressType discoveryv1.AddressType    `json:"addressType"`
	Endpoints   []discoveryv1.Endpoint     `json:"endpoints"`
	Ports       []discoveryv1.EndpointPort `json:"ports"`
}

func (m *endpointSliceManifest) object() Object {
	return reduce(&discoveryv1.EndpointSlice{
		ObjectMeta: m.Metadata.namespaced(), AddressType: m.AddressType, Endpoints: m.Endpoints, Ports: m.Ports,
	})
}
