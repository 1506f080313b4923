package probe

// Reason is a kind of trouble on the way to a peer.
type Reason struct {
	Name string
	// Means is what is wrong, Do the next step, in words for a person.
	Means, Do string
}

// The names of the reasons.
const (
	reasonSilent  = "silent"
	reasonRefused = "refused"
	reasonDropped = "dropped"
	reasonSource  = "source"
	reasonPods    = "pods"
	reasonMTU     = "mtu"
	reasonLoss    = "loss"
	reasonSend    = "send"
	reasonNoMesh  = "no_mesh_address"
	reasonFamily  = "family"
	reasonNoNodes = "no_nodes"
	// Those of the network's own way, tried between probe pods.
	reasonNoPeerPod  = "no_peer_probe_pod"
	reasonNoPod      = "no_probe_pod"
	reasonPodFamily  = "probe_pod_family"
	reasonMute       = "probe_pod_mute"
	reasonAway       = "probe_pod_away"
	reasonUnrouted   = "unrouted"
	reasonMasquerade = "masquerade"
	reasonOneWay     = "one_way"
	reasonNarrow     = "narrow"
)

// Reasons returns all there are, in a fixed order.
func Reasons() []Reason { return append(tunnelReasons(), nativeReasons()...) }

// nativeReasons are those of the network's own way.
func nativeReasons() []Reason {
	return []Reason{
		{
			reasonNoPeerPod, "it has no probe pod, so the network's own way there is untried",
			"run a probe pod on its nodes: docs/operations.md, Probe pods",
		},
		{
			reasonNoPod, "this node has no probe pod, so the network's own way is untried from here",
			"run a probe pod on this cluster's nodes: docs/operations.md, Probe pods",
		},
		{
			reasonPodFamily, "the probe pods of the two clusters have no address of the same family",
			"give them addresses of one family, IPv4 or IPv6, or leave packets to the tunnel",
		},
		{
			reasonMute, "the probe pod of this node does not answer its agent",
			"see whether it runs (node-agent probe-pod), and whether the node's packets to UDP port 8475 of it are let through",
		},
		{
			reasonAway, "packets arrive there, but no probe pod answers",
			"see whether that pod runs node-agent probe-pod",
		},
		{
			reasonUnrouted, "the network does not carry packets between the clusters' pods",
			"leave them to the tunnel (--peer-route-mode PEER=auto or vxlan); or have the network route the pod ranges of both clusters, and let UDP port 8475 of probe pods through",
		},
		{
			reasonMasquerade, "the source address of packets is changed on the network's own way, so native routing is of no use",
			"leave them to the tunnel; or except the other cluster's pod ranges from the NAT, which is that of the CNI (its option for ranges that are not masqueraded) or of a router between the clusters",
		},
		{
			reasonOneWay, "what its pods send of themselves does not arrive on the network's own way, only answers do",
			"let connections from the other cluster's pod ranges through the firewalls and security groups of both clusters",
		},
		{
			reasonNarrow, "the network's own way loses large packets",
			"leave them to the tunnel; or give the pods of both clusters the MTU that the network between them carries",
		},
	}
}

func tunnelReasons() []Reason {
	return []Reason{
		{
			reasonSilent, "nothing comes back from its nodes",
			"see whether the nodes reach each other by UDP at --mesh-port (8473) both ways, past every firewall between them; if they do, causeway diagnose and causeway observe in the other cluster say what happens there",
		},
		{
			reasonRefused, "packets arrive, but no agent answers at the other end",
			"see with causeway status in the other cluster whether that node's agent runs, and is of a version that has causeway diagnose",
		},
		{
			reasonDropped, "this node's own programs drop what leaves for it",
			"causeway observe --reasons says what the reason means and what to do",
		},
		{
			reasonSource, "the source address of packets is changed on the way out",
			"another NAT of this node runs before ours: look in nft list ruleset (and iptables-legacy -t nat -S) for a postrouting chain of a priority below 90, and except what leaves by mesh0",
		},
		{
			reasonPods, "packets of nodes arrive, but those of pods do not",
			"see with causeway observe, in both clusters, whether and why they are dropped, and with causeway status --addresses --within ADDRESS whether the other cluster knows that pod",
		},
		{
			reasonMTU, "only small packets pass",
			"the network between the nodes carries less than the MTU of their devices says: raise its MTU, or lower that of the nodes' devices to what it carries, which the tunnel follows",
		},
		{
			reasonLoss, "many packets are lost",
			"look at the network between the nodes, and at causeway_packet_packets_total on both sides for what is dropped",
		},
		{
			reasonSend, "nothing can be sent there",
			"see on the node with ip route get ADDRESS which way it is routed, and whether a rule before ours decides",
		},
		{
			reasonNoMesh, "none of its nodes has a mesh address",
			"give its API server --mesh-cidr; if it has one, see with causeway status in both clusters whether the peer is synced and its range is refused",
		},
		{
			reasonFamily, "its nodes have no mesh address of a family that this node has",
			"give both API servers a --mesh-cidr of one family, IPv4 or IPv6",
		},
		{
			reasonNoNodes, "it has no nodes that are known here",
			"see with causeway status whether the peer is synced",
		},
	}
}

// ReasonNamed returns the one of that name, of a newer agent only its name.
func ReasonNamed(name string) Reason {
	for _, r := range Reasons() {
		if r.Name == name {
			return r
		}
	}
	return Reason{Name: name, Means: name, Do: "this API server is older than the agent and has no words for it: upgrade it"}
}
