package source

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The types below are what is read of a manifest: the fields that a mesh looks
// at. That keeps tens of thousands of Pods in little memory, lets an object that
// only got a new heartbeat count as unchanged, and nothing that is wrong with a
// volume or a machine id, which YAML takes for a number, stands in the way. Each is
// turned into what an API server would give, with its defaults.

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
	delete(m.Annotations, corev1.LastAppliedConfigAnnotation)
	delete(m.Annotations, corev1.EndpointsLastChangeTriggerTime)
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
	return &corev1.Namespace{ObjectMeta: m.Metadata.cluster()}
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
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	for _, c := range m.Status.Conditions {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c.Type, Status: c.Status})
	}
	return n
}

type containerManifest struct {
	Name          string                         `json:"name"`
	Ports         []corev1.ContainerPort         `json:"ports"`
	RestartPolicy *corev1.ContainerRestartPolicy `json:"restartPolicy"`
}

func containers(manifests []containerManifest) []corev1.Container {
	var found []corev1.Container
	for _, m := range manifests {
		for i := range m.Ports {
			if m.Ports[i].Protocol == "" {
				m.Ports[i].Protocol = corev1.ProtocolTCP
			}
		}
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
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = "default"
	}
	if len(p.Status.PodIPs) == 0 && p.Status.PodIP != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	if len(p.Status.HostIPs) == 0 && p.Status.HostIP != "" {
		p.Status.HostIPs = []corev1.HostIP{{IP: p.Status.HostIP}}
	}
	for _, c := range m.Status.Conditions {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status})
	}
	return p
}

type serviceManifest struct {
	Metadata meta               `json:"metadata"`
	Spec     corev1.ServiceSpec `json:"spec"`
	Status   struct {
		LoadBalancer corev1.LoadBalancerStatus `json:"loadBalancer"`
	} `json:"status"`
}

func (m *serviceManifest) object() Object {
	s := &corev1.Service{
		ObjectMeta: m.Metadata.namespaced(), Spec: m.Spec,
		Status: corev1.ServiceStatus{LoadBalancer: m.Status.LoadBalancer},
	}
	spec := &s.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if len(spec.IPFamilies) == 0 {
		for _, text := range spec.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil {
				spec.IPFamilies = append(spec.IPFamilies, familyOf(ip))
			}
		}
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	return s
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

type endpointSliceManifest struct {
	Metadata    meta                       `json:"metadata"`
	AddressType discoveryv1.AddressType    `json:"addressType"`
	Endpoints   []discoveryv1.Endpoint     `json:"endpoints"`
	Ports       []discoveryv1.EndpointPort `json:"ports"`
}

func (m *endpointSliceManifest) object() Object {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: m.Metadata.namespaced(), AddressType: m.AddressType, Endpoints: m.Endpoints, Ports: m.Ports,
	}
	for i := range s.Ports {
		port := &s.Ports[i]
		if port.Name == nil {
			port.Name = new(string)
		}
		if port.Protocol == nil || *port.Protocol == "" {
			tcp := corev1.ProtocolTCP
			port.Protocol = &tcp
		}
	}
	return s
}
