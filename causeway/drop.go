package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/observe"
)

// drop is a dropped packet as `observe --output json` writes it, one a line.
type drop struct {
	Time      string `json:"time"`
	Node      string `json:"node"`
	Direction string `json:"direction"`
	Reason    string `json:"reason"`
	Words     string `json:"reason_words"`
	// Source and Destination are null when they could not be read.
	Source      *party `json:"source"`
	Destination *party `json:"destination"`
	Protocol    string `json:"protocol"`
	Tunnel      string `json:"tunnel"`
	TunnelNode  string `json:"tunnel_node"`
	Cluster     string `json:"cluster"`
	ClusterID   uint32 `json:"cluster_id"`
	// Identity is what the sender says, Known what the node knows.
	Identity       uint32   `json:"identity"`
	IdentityLabels []string `json:"identity_labels"`
	Known          uint32   `json:"known_identity"`
	KnownLabels    []string `json:"known_labels"`
	Length         uint32   `json:"length"`
}

type party struct {
	Address   string `json:"address"`
	Port      uint32 `json:"port"`
	Cluster   string `json:"cluster"`
	Node      string `json:"node"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
}

// lost is a line of its own.
type lost struct {
	Events uint64 `json:"lost_events"`
	Node   string `json:"node"`
}

func newDrop(d *adminpb.Drop) drop {
	return drop{
		Time: d.Time.AsTime().Format(time.RFC3339Nano), Node: d.Node, Direction: d.Direction, Reason: d.Reason, Words: words(d),
		Source: newParty(d.Source), Destination: newParty(d.Destination), Protocol: protocol(d.Protocol),
		Tunnel: d.Tunnel, TunnelNode: d.TunnelNode, Cluster: d.Cluster, ClusterID: d.ClusterId,
		Identity: d.Identity, IdentityLabels: orNone(d.IdentityLabels), Known: d.KnownIdentity, KnownLabels: orNone(d.KnownLabels), Length: d.Length,
	}
}

// orNone makes [] of what JSON would have as null.
func orNone(labels []string) []string { return append([]string{}, labels...) }

func newParty(p *adminpb.Party) *party {
	if p == nil {
		return nil
	}
	return &party{p.Address, p.Port, p.Cluster, p.Node, p.Namespace, p.Pod}
}

// words says why, as far as this version knows the reason.
func words(d *adminpb.Drop) string {
	r, ok := observe.ReasonNamed(d.Reason)
	if !ok {
		return "for a reason that this version does not know"
	}
	return r.Words(observe.Direction(d.Direction))
}

// protocol is the name of an IP protocol, its number if it has none here, "" for
// none.
func protocol(n uint32) string {
	names := map[uint32]string{0: "", 1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "ICMPv6", 132: "SCTP"}
	if name, ok := names[n]; ok {
		return name
	}
	return strconv.FormatUint(uint64(n), 10)
}

// dropLine is a dropped packet for a person.
func dropLine(d *adminpb.Drop, zone *time.Location) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s dropped, %s (%s): ", d.Time.AsTime().In(zone).Format("Jan _2 15:04:05.000"), d.Node, d.Direction, words(d), d.Reason)
	if name := protocol(d.Protocol); name != "" {
		b.WriteString(name + " ")
	}
	if d.Source != nil && d.Destination != nil {
		fmt.Fprintf(&b, "%s -> %s, ", partyText(d.Source), partyText(d.Destination))
	}
	fmt.Fprintf(&b, "%d bytes", d.Length)
	if d.Identity != 0 {
		said := "identity" // this node's own word
		if d.Direction == string(observe.FromMesh) {
			said = "says identity"
		}
		fmt.Fprintf(&b, ", %s %s", said, who(d.Identity, d.IdentityLabels))
	}
	if d.KnownIdentity != 0 && d.KnownIdentity != d.Identity {
		fmt.Fprintf(&b, ", known as %s", who(d.KnownIdentity, d.KnownLabels))
	}
	if d.Tunnel != "" {
		way := "from"
		if d.Direction == string(observe.ToMesh) {
			way = "to"
		}
		fmt.Fprintf(&b, ", tunnel %s %s", way, tunnelText(d))
	}
	return b.String()
}

// partyText is the pod or node, if it is known, and the address.
func partyText(p *adminpb.Party) string {
	address := p.Address
	if p.Port != 0 {
		address = net.JoinHostPort(p.Address, strconv.FormatUint(uint64(p.Port), 10))
	}
	switch {
	case p.Pod != "":
		return fmt.Sprintf("%s/%s/%s %s", p.Cluster, p.Namespace, p.Pod, address)
	case p.Node != "":
		return fmt.Sprintf("node %s/%s %s", p.Cluster, p.Node, address)
	}
	return address
}

func tunnelText(d *adminpb.Drop) string {
	switch {
	case d.TunnelNode != "" && d.Cluster != "":
		return fmt.Sprintf("%s/%s %s", d.Cluster, d.TunnelNode, d.Tunnel)
	case d.TunnelNode != "":
		return fmt.Sprintf("node %s %s", d.TunnelNode, d.Tunnel)
	case d.Cluster != "":
		return fmt.Sprintf("%s %s", d.Cluster, d.Tunnel)
	}
	return d.Tunnel
}

// who is an identity and its labels, as far as they are known.
func who(number uint32, labels []string) string {
	text := strconv.FormatUint(uint64(number), 10)
	if l := shortLabels(labels); l != "" {
		text += " (" + l + ")"
	}
	return text
}
