package wire

import (
	"net/netip"
	"unicode"
	"unicode/utf8"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// Limits on names and lists. Those of slices are what Kubernetes itself allows.
const (
	maxName              = 253 // a DNS subdomain
	maxLabel             = 63  // a DNS label
	maxText              = 1024
	maxMapEntries        = 4096
	maxSliceEndpoints    = 1000
	maxEndpointAddresses = 100
	maxEndpointZones     = 100
	maxSlicePorts        = 20000
)

// checkName refuses a name that no Kubernetes object can have. Names of other
// clusters end up in keys, logs and on people's terminals.
func checkName(what, name string) error {
	return checkDNS(what, name, maxName, true)
}

// checkOptionalName is checkName for a name that may be missing.
func checkOptionalName(what, name string) error {
	if name == "" {
		return nil
	}
	return checkName(what, name)
}

func checkDNS(what, name string, limit int, dots bool) error {
	if name == "" || len(name) > limit {
		return malformed("%s name %q: its length is not within 1 to %d", what, name, limit)
	}
	for i := range len(name) {
		c := name[i]
		inner := i > 0 && i < len(name)-1
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (!inner || c != '-' && (!dots || c != '.')) {
			return malformed("%s name %q: character %d is not allowed there", what, name, i+1)
		}
	}
	return nil
}

func checkNamespaced(what, namespace, name string) error {
	if err := checkDNS("namespace", namespace, maxLabel, false); err != nil {
		return err
	}
	return checkName(what, name)
}

// checkText refuses text that cannot be shown on a terminal as it is.
func checkText(what, text string) error {
	if len(text) > maxText {
		return tooLarge("bytes of the "+what, len(text), maxText)
	}
	if !utf8.ValidString(text) {
		return malformed("%s %q is not UTF-8", what, text)
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return malformed("%s %q holds a control character", what, text)
		}
	}
	return nil
}

// checkTexts is checkText for pairs of what and text.
func checkTexts(pairs ...[2]string) error {
	for _, p := range pairs {
		if err := checkText(p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}

// checkMap bounds labels and annotations. Their content is free: it is
// compared, never shown as it is.
func checkMap(what string, m map[string]string) error {
	if len(m) > maxMapEntries {
		return tooLarge(what, len(m), maxMapEntries)
	}
	for key, value := range m {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return malformed("%s: %q is not UTF-8", what, key)
		}
	}
	return nil
}

// checkCluster refuses names and ids that no mesh has room for. An id of 0 is
// what old publishers leave out; whether it is the peer's is not decided here.
func checkCluster(name string, id cluster.ID) error {
	if err := cluster.ValidateName(name); err != nil {
		return malformed("%v", err)
	}
	if id > cluster.ID(cluster.Size511) {
		return malformed("cluster id %d is over %d", id, cluster.Size511)
	}
	return nil
}

// checkIP refuses what is no address of a network: an IPv6 zone means
// something on one machine only, and an IPv4-mapped address is another
// spelling of an IPv4 one.
func checkIP(ip netip.Addr) error {
	if !ip.IsValid() || ip.Zone() != "" || ip.Is4In6() {
		return malformed("IP address %q", ip)
	}
	return nil
}

func checkPrefix(prefix netip.Prefix) error {
	if !prefix.IsValid() || checkIP(prefix.Addr()) != nil || prefix != prefix.Masked() {
		return malformed("address range %q", prefix)
	}
	return nil
}

func parseIP(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || checkIP(ip) != nil {
		return netip.Addr{}, malformed("IP address %q", text)
	}
	return ip, nil
}

// parseOptionalIP takes "" for no address.
func parseOptionalIP(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	return parseIP(text)
}

// formatIP is the reverse of parseOptionalIP.
func formatIP(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

func checkProtocol(p service.Protocol) error {
	switch p {
	case service.TCP, service.UDP, service.SCTP:
		return nil
	}
	return malformed("protocol %q is none of TCP, UDP, SCTP", p)
}

// emptyToNil makes the two forms of an empty map one, so that values compare.
func emptyToNil[K comparable, V any](m map[K]V) map[K]V {
	if len(m) == 0 {
		return nil
	}
	return m
}
