package wire

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"unicode/utf8"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/service"
)

type addressJSON struct {
	IP                string
	Mask              []byte // nil for one address, else a netmask of 4 or 16 bytes
	HostIP            string
	ID                identity.Number
	Key               uint8
	Metadata          string
	K8sNamespace      string          `json:",omitempty"`
	K8sPodName        string          `json:",omitempty"`
	K8sServiceAccount string          `json:",omitempty"`
	NamedPorts        []namedPortJSON `json:",omitempty"`
}

type namedPortJSON struct {
	Name     string
	Port     uint16
	Protocol string
}

// EncodeAddress returns the value of an address. Its cluster is in the layout
// that the key is made by, not in the value.
func EncodeAddress(a *endpoint.Address) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, encodeError(Addresses, a.Prefix.String(), err) }
	if err := checkAddress(a); err != nil {
		return fail(err)
	}
	v := addressJSON{
		IP:                a.Prefix.Addr().String(),
		HostIP:            formatIP(a.HostIP),
		ID:                a.Identity,
		Key:               a.EncryptionKey,
		Metadata:          a.Metadata,
		K8sNamespace:      a.Namespace,
		K8sPodName:        a.Pod,
		K8sServiceAccount: a.ServiceAccount,
	}
	if !a.Prefix.IsSingleIP() {
		v.Mask = netmask(a.Prefix)
	}
	for _, p := range a.NamedPorts {
		v.NamedPorts = append(v.NamedPorts, namedPortJSON(p))
	}
	value, err := marshal(v, MaxAddressBytes)
	if err != nil {
		return fail(err)
	}
	return value, nil
}

// DecodeAddress returns the address or range that stands at key. Whether the
// cluster may have that address and that identity is not decided here.
func (l Layout) DecodeAddress(key string, value []byte) (*endpoint.Address, error) {
	prefix, err := l.ParseAddressKey(key)
	if err != nil {
		return nil, err
	}
	var v addressJSON
	if err := unmarshal(value, &v, MaxAddressBytes); err != nil {
		return nil, decodeError(key, err)
	}
	a, err := v.address(l.Cluster)
	if err != nil {
		return nil, decodeError(key, err)
	}
	if a.Prefix != prefix {
		return nil, decodeError(key, fmt.Errorf("%w: %s", ErrMismatch, a.Prefix))
	}
	return a, nil
}

func (v *addressJSON) address(cluster string) (*endpoint.Address, error) {
	prefix, err := parsePrefix(v.IP, v.Mask)
	if err != nil {
		return nil, err
	}
	host, err := parseOptionalIP(v.HostIP)
	if err != nil {
		return nil, err
	}
	a := &endpoint.Address{
		Cluster:        cluster,
		Prefix:         prefix,
		HostIP:         host,
		Identity:       v.ID,
		EncryptionKey:  v.Key,
		Namespace:      v.K8sNamespace,
		Pod:            v.K8sPodName,
		ServiceAccount: v.K8sServiceAccount,
		Metadata:       v.Metadata,
	}
	for _, p := range v.NamedPorts {
		a.NamedPorts = append(a.NamedPorts, endpoint.NamedPort(p))
	}
	return a, checkAddress(a)
}

// parsePrefix makes a range of an address and its netmask. A mask of all bits
// is refused: one address has no mask, or its key would have two forms.
func parsePrefix(text string, mask []byte) (netip.Prefix, error) {
	ip, err := parseIP(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	if mask == nil {
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	prefix, err := withMask(ip, mask)
	if err == nil && prefix.IsSingleIP() {
		err = malformed("address %s with a mask of all bits", ip)
	}
	return prefix, err
}

func checkAddress(a *endpoint.Address) error {
	if err := checkPrefix(a.Prefix); err != nil {
		return err
	}
	if a.HostIP.IsValid() {
		if err := checkIP(a.HostIP); err != nil {
			return err
		}
	}
	if err := checkOptionalName("namespace", a.Namespace); err != nil {
		return err
	}
	if err := checkOptionalName("pod", a.Pod); err != nil {
		return err
	}
	if err := checkOptionalName("service account", a.ServiceAccount); err != nil {
		return err
	}
	for _, p := range a.NamedPorts {
		if err := checkText("port name", p.Name); err != nil {
			return err
		}
		if err := checkProtocol(service.Protocol(p.Protocol)); err != nil {
			return err
		}
	}
	return checkText("metadata", a.Metadata)
}

// marshal is json.Marshal with the limit on values of a kind.
func marshal(v any, limit int) ([]byte, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return nil, malformed("%v", err)
	}
	return value, checkSize(value, limit)
}

func unmarshal(value []byte, v any, limit int) error {
	if err := checkSize(value, limit); err != nil {
		return err
	}
	// The decoder would make good text of what is none, and two names one.
	if !utf8.Valid(value) {
		return malformed("not valid UTF-8")
	}
	if err := json.Unmarshal(value, v); err != nil {
		return malformed("%v", err)
	}
	return nil
}
