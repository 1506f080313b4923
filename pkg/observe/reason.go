package observe

import "slices"

// Reason is why packets are dropped, for people.
type Reason struct {
	// Name is the one of events, flags and metrics.
	Name string
	// Out and In are a few words for a packet that leaves for another cluster, or
	// comes from one; "" where it can not happen.
	Out, In string
	// Means is a sentence that says what it is, Do one that says what to do.
	Means, Do string
	// Silent says that packets are counted and there are no events of them.
	Silent bool
}

// Words returns the few words for one direction.
func (r Reason) Words(d Direction) string {
	if d == FromMesh && r.In != "" || r.Out == "" {
		return r.In
	}
	return r.Out
}

// ReasonNamed returns the reason of a name, false for one that is not known.
func ReasonNamed(name string) (Reason, bool) {
	all := Reasons()
	i := slices.IndexFunc(all, func(r Reason) bool { return r.Name == name })
	if i < 0 {
		return Reason{}, false
	}
	return all[i], true
}

// Reasons returns all that are known. It is the one place that says what they
// mean: the command line and the documentation have it from here.
func Reasons() []Reason {
	const malformed, protocol = "malformed packet", "neither IPv4 nor IPv6"
	const link, torn = "multicast, broadcast or link-local", "the maps changed too fast to be read"
	const own = "the agent's self-test"
	return []Reason{
		{
			Name: "malformed", Out: malformed, In: malformed,
			Means: "The packet is truncated, or its lengths contradict each other.",
			Do:    "Look for a program at the source that makes packets by hand; if ordinary traffic is hit, for a network card or driver that damages packets.",
		},
		{
			Name: "protocol", Out: protocol, In: protocol,
			Means: "The frame holds neither IPv4 nor IPv6, or has a VLAN tag.",
			Do:    "Nothing, unless an application misses it: only IPv4 and IPv6 are carried between clusters.",
		},
		{
			Name: "link_scope", Out: link, In: link, Silent: true,
			Means: "The packet is multicast, broadcast or link-local and stays on its link; devices send such packets by themselves, so they are counted without events.",
			Do:    "Nothing.",
		},
		{
			Name: "tunnel", Out: "the kernel refused the tunnel key", In: "the kernel gave no tunnel key",
			Means: "The kernel gave or took no tunnel key, so the packet did not come, or can not go, by the tunnel device as the agent made it.",
			Do:    "Look whether somebody replaced the device (ip -d link show mesh0 says external), and restart the node's agent, which makes it anew.",
		},
		{
			Name: "node", Out: "no node is known behind the destination", In: "the sender is no node of a peer",
			Means: "At the other end of the tunnel is no node of another cluster that this node knows of.",
			Do:    "Look with causeway status whether the peer is synced; if it is, somebody who is no node sends to the mesh port: the tunnel's address says who, and a firewall before the nodes keeps it out.",
		},
		{
			Name: "source", Out: "the source is no address of this node", In: "the source is no address of the sender's cluster",
			Means: "The packet leaves with a source that is no pod's or mesh address of this node, or comes with one that the sender's cluster does not have.",
			Do:    "Look with causeway status --addresses --within ADDRESS whose it is: if nobody's, the pod is missing in its cluster's manifests or the peer is not synced; else somebody on the sending node uses a foreign address.",
		},
		{
			Name: "cluster", In: "the source belongs to another cluster than the sender",
			Means: "The source belongs to another cluster than the node that sent the packet.",
			Do:    "Find the pod on the sending node that uses a foreign address; or, if two clusters have the same addresses, which causeway status shows as refused ranges, give one of them others.",
		},
		{
			Name: "identity", In: "the source is known with another identity",
			Means: "The sender says that the source has another identity than this node knows it to have.",
			Do:    "Nothing if it ends within seconds, as after a change of a pod's labels; if it lasts, look with causeway status whether the peer is synced; if it is, somebody on the sending node pretends to be another pod.",
		},
		{
			Name: "number", In: "the source is new and its identity is none of its cluster",
			Means: "The source is not known yet, and the identity that the sender gives it is none that its cluster may give.",
			Do:    "Look whether the peer publishes the addresses of all of its pods; if it does, somebody on the sending node makes packets by hand.",
		},
		{
			Name: "destination", Out: "the destination is not known", In: "the destination is no pod of this node",
			Means: "The packet leaves for an address that no cluster says it has, or comes for one that is neither a pod's on this node nor the node's mesh address; nothing is passed on.",
			Do:    "Nothing if the pod has just gone; else look with causeway status --addresses --within ADDRESS, in both clusters, on which node it is said to be, and whether the peer is synced.",
		},
		{
			Name: "routed", In: "source routing",
			Means: "The packet carries a source route that would lead it on from here.",
			Do:    "Find the program at the source that asks for it: no ordinary application does.",
		},
		{
			Name: "unstable", Out: torn, In: torn,
			Means: "A value that is needed was changed at every moment at which it was read.",
			Do:    "Nothing if there are few, as the sender tries again; if it lasts, restart the node's agent and report it.",
		},
		{
			Name: "self_test", Out: own, In: own, Silent: true,
			Means: "The frame is the agent's own: by it the agent sees that the programs run, and they drop it.",
			Do:    "Nothing.",
		},
	}
}
