package kubelab

import (
	"slices"
	"strings"
)

// etcd and kube-apiserver meet on a socket in the control plane's folder: no
// port to be taken by others, nothing to protect.

func (p *ControlPlane) etcdArgs() []string {
	const peer = "unix://peer:0" // a socket of this name in its working directory, which nobody uses
	return []string{
		"--name=etcd", "--data-dir=" + p.path("etcd"), "--log-level=warn",
		"--unsafe-no-fsync", // nothing has to outlive the machine
		"--listen-client-urls=" + p.etcdURL(), "--advertise-client-urls=unix://client:0",
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=etcd=" + peer,
	}
}

func (p *ControlPlane) etcdURL() string { return "unix://" + p.etcdSocket() }

func (p *ControlPlane) etcdSocket() string { return p.path("etcd.sock") }

func (p *ControlPlane) apiserverArgs() []string {
	host, number, _ := strings.Cut(p.port.address, ":")
	args := []string{
		"--etcd-servers=" + p.etcdURL(), "--bind-address=" + host, "--secure-port=" + number,
		"--permit-port-sharing=true",                                     // with what keeps the port for it
		"--advertise-address=" + host, "--endpoint-reconciler-type=none", // loopback is no endpoint
		"--service-cluster-ip-range=" + ServiceCIDR, "--authorization-mode=Node,RBAC", "--allow-privileged=true", "--profiling=false",
		"--cert-dir=" + p.path("generated"),
		"--client-ca-file=" + p.path("ca.crt"), "--tls-cert-file=" + p.path("apiserver.crt"), "--tls-private-key-file=" + p.path("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + p.path("sa.pub"),
		"--service-account-signing-key-file=" + p.path("sa.key"),
		"--egress-selector-config-file=" + p.path("egress.yaml"),
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + p.path("kubelet-client.crt"), "--kubelet-client-key=" + p.path("kubelet-client.key"),
	}
	if !slices.Contains(p.config.Controllers, "serviceaccount-controller") {
		// Nothing makes the accounts that it would ask of each pod.
		args = append(args, "--disable-admission-plugins=ServiceAccount")
	}
	return append(args, p.config.APIServerArgs...)
}

func (p *ControlPlane) controllerArgs() []string {
	return []string{
		"--kubeconfig=" + p.path("controllers.conf"), "--controllers=" + strings.Join(p.config.Controllers, ","),
		"--leader-elect=false", "--secure-port=0",
		"--service-account-private-key-file=" + p.path("sa.key"), "--root-ca-file=" + p.path("ca.crt"), "--use-service-account-credentials=true",
		"--cluster-signing-cert-file=" + p.path("ca.crt"), "--cluster-signing-key-file=" + p.path("ca.key"),
		"--cluster-cidr=" + PodCIDR, "--service-cluster-ip-range=" + ServiceCIDR,
	}
}
