package wire

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// HeartbeatKey holds the time at which its publisher was last alive, rewritten
// every HeartbeatInterval. It is the only key that carries a lease.
const (
	HeartbeatKey      = "cilium/.heartbeat"
	HeartbeatInterval = time.Minute
)

const (
	stateRoot  = "cilium/state/"
	cacheRoot  = "cilium/cache/"
	configRoot = "cilium/cluster-config/"
	syncedRoot = "cilium/synced/"
)

// Kind is one kind of state, in the protocol's words. It is also a bounded
// metric label.
type Kind string

// The kinds. ServiceExports is known by its marker only: its values are
// neither written nor read.
const (
	Identities     Kind = "identities"
	Nodes          Kind = "nodes"
	Addresses      Kind = "ip"
	Services       Kind = "services"
	Slices         Kind = "endpointslices"
	ServiceExports Kind = "serviceexports"
)

// Kinds returns the kinds that have values, in the order in which they are
// written: what a value refers to stands before it.
func Kinds() []Kind { return []Kind{Identities, Nodes, Addresses, Services, Slices} }

// Layout says where the state of one cluster stands in an etcd. Cluster must
// be a valid cluster name.
type Layout struct {
	Cluster string
	// Cached is for state that a reader keeps of another cluster, or a hub
	// shows of many.
	Cached bool
}

func (l Layout) root() string {
	if l.Cached {
		return cacheRoot
	}
	return stateRoot
}

// Prefix returns what all keys of a kind begin with. It ends in "/", so that
// cluster "a" never sees what "ab" wrote.
func (l Layout) Prefix(k Kind) string {
	prefix := l.root() + string(k) + "/v1/"
	switch {
	case k == Identities && !l.Cached:
		return prefix + "id/"
	case k == Identities:
		return prefix + l.Cluster + "/id/"
	case k == Addresses && !l.Cached:
		// One etcd holds the state of one cluster; "default" is literal.
		return prefix + "default/"
	}
	return prefix + l.Cluster + "/"
}

// Marker returns the key whose presence says that the kind is completely written.
func (l Layout) Marker(k Kind) string {
	return syncedRoot + l.Cluster + "/" + l.root() + string(k) + "/v1"
}

// NodeKey returns the key of a node.
func (l Layout) NodeKey(name string) string { return l.Prefix(Nodes) + name }

// AddressKey returns the key of an address or, for fewer than all bits, of a range.
func (l Layout) AddressKey(prefix netip.Prefix) string {
	return l.Prefix(Addresses) + addressName(prefix)
}

// IdentityKey returns the key of an identity.
func (l Layout) IdentityKey(n identity.Number) string { return l.Prefix(Identities) + n.String() }

// ServiceKey returns the key of a service.
func (l Layout) ServiceKey(name service.Name) string {
	return l.Prefix(Services) + name.Namespace + "/" + name.Name
}

// SliceKey returns the key of an endpoint slice.
func (l Layout) SliceKey(namespace, name string) string {
	return l.Prefix(Slices) + namespace + "/" + name
}

// ParseNodeKey returns the name of the node that a key of Prefix(Nodes) is for.
func (l Layout) ParseNodeKey(key string) (string, error) {
	name, err := l.suffix(Nodes, key)
	if err != nil {
		return "", err
	}
	if err := checkName("node", name); err != nil {
		return "", keyError(key, err)
	}
	return name, nil
}

// ParseAddressKey returns the address or range that a key of
// Prefix(Addresses) is for. Another spelling of the same address is refused:
// two keys must never mean one address.
func (l Layout) ParseAddressKey(key string) (netip.Prefix, error) {
	name, err := l.suffix(Addresses, key)
	if err != nil {
		return netip.Prefix{}, err
	}
	var prefix netip.Prefix
	if strings.Contains(name, "/") {
		prefix, err = netip.ParsePrefix(name)
	} else {
		var ip netip.Addr
		ip, err = parseIP(name)
		prefix = netip.PrefixFrom(ip, ip.BitLen())
	}
	if err != nil || checkPrefix(prefix) != nil || addressName(prefix) != name {
		return netip.Prefix{}, keyError(key, malformed("not an address or range in its only form"))
	}
	return prefix, nil
}

// ParseIdentityKey returns the number that a key of Prefix(Identities) is for.
func (l Layout) ParseIdentityKey(key string) (identity.Number, error) {
	name, err := l.suffix(Identities, key)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != name {
		return 0, keyError(key, malformed("not the number of an identity"))
	}
	return identity.Number(n), nil
}

// ParseServiceKey returns the name of the service that a key of
// Prefix(Services) is for.
func (l Layout) ParseServiceKey(key string) (service.Name, error) {
	namespace, name, err := l.parseNamespaced(Services, "service", key)
	return service.Name{Namespace: namespace, Name: name}, err
}

// ParseSliceKey returns namespace and name of the endpoint slice that a key of
// Prefix(Slices) is for.
func (l Layout) ParseSliceKey(key string) (namespace, name string, err error) {
	return l.parseNamespaced(Slices, "endpoint slice", key)
}

func (l Layout) parseNamespaced(k Kind, what, key string) (namespace, name string, err error) {
	rest, err := l.suffix(k, key)
	if err != nil {
		return "", "", err
	}
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok {
		return "", "", keyError(key, malformed("not a namespace and a name"))
	}
	if err := checkNamespaced(what, namespace, name); err != nil {
		return "", "", keyError(key, err)
	}
	return namespace, name, nil
}

// suffix returns what a key of kind k has after its prefix.
func (l Layout) suffix(k Kind, key string) (string, error) {
	if len(key) > MaxKeyBytes {
		return "", keyError(key, tooLarge("bytes of the key", len(key), MaxKeyBytes))
	}
	rest, ok := strings.CutPrefix(key, l.Prefix(k))
	if !ok {
		return "", keyError(key, fmt.Errorf("%w: not under %q", ErrWrongCluster, l.Prefix(k)))
	}
	return rest, nil
}

func keyError(key string, err error) error {
	return fmt.Errorf("parse key %q: %w", clip(key), err)
}

// addressName is the last part of an address's key: the bare address, or the
// range with its bits.
func addressName(prefix netip.Prefix) string {
	if prefix.IsSingleIP() {
		return prefix.Addr().String()
	}
	return prefix.String()
}

// ConfigKey returns the key of a cluster's config.
func ConfigKey(cluster string) string { return configRoot + cluster }

// Readable returns what a reader of a cluster's own state may read and watch:
// the keys, and everything under the prefixes, each of which ends in "/".
func Readable(cluster string) (keys, prefixes []string) {
	return []string{HeartbeatKey, ConfigKey(cluster)}, []string{stateRoot, syncedRoot + cluster + "/"}
}

// EncodeTime returns the value of a marker or a heartbeat. Readers look at its
// presence, and know a store again by it: it is exact enough for no two
// heartbeats to be the same.
func EncodeTime(t time.Time) []byte { return []byte(t.UTC().Format(time.RFC3339Nano)) }
