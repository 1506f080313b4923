package wire

import (
	"fmt"

	"github.com/causeway-mesh/causeway/pkg/identity"
)

// EncodeIdentity returns the value of an identity of the cluster that its
// labels name.
func EncodeIdentity(i *identity.Identity) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, encodeError(Identities, i.Number.String(), err) }
	canonical, err := identity.ParseLabels(string(i.Labels))
	if err != nil || canonical != i.Labels {
		return fail(malformed("labels %q are not in canonical form", i.Labels))
	}
	if err := checkIdentity(i, i.Labels.Cluster()); err != nil {
		return fail(err)
	}
	value := []byte(i.Labels)
	if err := checkSize(value, MaxIdentityBytes); err != nil {
		return fail(err)
	}
	return value, nil
}

// DecodeIdentity returns the identity that stands at key. Whether its number
// is one of the cluster's own is not decided here.
func (l Layout) DecodeIdentity(key string, value []byte) (*identity.Identity, error) {
	number, err := l.ParseIdentityKey(key)
	if err != nil {
		return nil, err
	}
	if err := checkSize(value, MaxIdentityBytes); err != nil {
		return nil, decodeError(key, err)
	}
	labels, err := identity.ParseLabels(string(value))
	if err != nil {
		return nil, decodeError(key, malformed("%v", err))
	}
	i := &identity.Identity{Number: number, Labels: labels}
	if err := checkIdentity(i, l.Cluster); err != nil {
		return nil, decodeError(key, err)
	}
	return i, nil
}

func checkIdentity(i *identity.Identity, clusterName string) error {
	if i.Number == identity.None {
		return malformed("identity 0 means none")
	}
	n := 0
	for key, value := range i.Labels.All() {
		if err := checkTexts([2]string{"label", key}, [2]string{"label's value", value}); err != nil {
			return err
		}
		n++
	}
	if n > maxMapEntries {
		return tooLarge("labels", n, maxMapEntries)
	}
	if got := i.Labels.Cluster(); got == "" || got != clusterName {
		return fmt.Errorf("%w: label %s:%s=%q, not %q", ErrWrongCluster,
			identity.SourceKubernetes, identity.LabelCluster, clip(got), clusterName)
	}
	return nil
}
