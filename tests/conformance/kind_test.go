package conformance

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	servicestore "github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	"github.com/cilium/cilium/pkg/identity"
	identitycache "github.com/cilium/cilium/pkg/identity/cache"
	identitykey "github.com/cilium/cilium/pkg/identity/key"
	"github.com/cilium/cilium/pkg/ipcache"
	ciliumio "github.com/cilium/cilium/pkg/k8s/apis/cilium.io"
	"github.com/cilium/cilium/pkg/kvstore"
	"github.com/cilium/cilium/pkg/kvstore/store"
	"github.com/cilium/cilium/pkg/labels"
	nodestore "github.com/cilium/cilium/pkg/node/store"
	nodetypes "github.com/cilium/cilium/pkg/node/types"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// kind is one kind of state with the code that Cilium reads it by.
type kind struct {
	name wire.Kind
	// prefix is what Cilium's keys of the kind begin with in the publisher's
	// etcd, marker included; under is the rest of it, which keys alone have.
	prefix, under string
	// cached is the prefix of the keys of one cluster in a cache.
	cached string
	create store.KeyCreator
}

// kindsOf are the kinds as a reader of the cluster checks them.
func kindsOf(cluster string, id uint32) []kind {
	// Cilium's validators read the id when they are called.
	want := id
	kinds := []kind{
		{
			name: wire.Identities, prefix: identitycache.IdentitiesPath, under: "id",
			create: func() store.Key { return &identityKey{cluster: cluster, id: id} },
		},
		{
			name: wire.Nodes, prefix: nodestore.NodeStorePrefix, under: cluster,
			create: nodestore.ValidatingKeyCreator(nodestore.ClusterNameValidator(cluster), nodestore.NameValidator(), nodestore.ClusterIDValidator(&want)),
		},
		{
			name: wire.Addresses, prefix: ipcache.IPIdentitiesPath, under: ipcache.DefaultAddressSpace,
			create: func() store.Key { return &identity.IPIdentityPair{} },
		},
		{
			name: wire.Services, prefix: servicestore.ServiceStorePrefix, under: cluster,
			create: servicestore.KeyCreator(servicestore.ClusterNameValidator(cluster), servicestore.NamespacedNameValidator(), servicestore.ClusterIDValidator(&want)),
		},
		{
			name: wire.Slices, prefix: endpointslice.EndpointSliceStorePrefix, under: cluster,
			create: endpointslice.KeyCreator(endpointslice.ClusterNameValidator(cluster), endpointslice.NamespacedNameValidator(), endpointslice.ClusterIDValidator(&want)),
		},
	}
	for i := range kinds {
		k := &kinds[i]
		k.cached = kvstore.JoinKey(kvstore.StateToCachePrefix(k.prefix), cluster) + "/"
		if k.name == wire.Identities {
			k.cached += "id/"
		}
	}
	return kinds
}

// keys is the prefix that Cilium watches: a slash ends it, see
// restartableWatchStore.
func (k kind) keys() string { return kvstore.JoinKey(k.prefix, k.under) + "/" }

// kindOf returns the kind of a key and what Cilium calls the key.
func kindOf(kinds []kind, key string) (kind, string, error) {
	for _, k := range kinds {
		if name, ok := strings.CutPrefix(key, k.keys()); ok {
			return k, name, nil
		}
	}
	return kind{}, "", fmt.Errorf("%s is of no kind that Cilium reads", key)
}

// identityKey is an identity as Cilium's allocator reads it, with the checks
// that it makes of a remote one; those two are not exported.
type identityKey struct {
	identitykey.GlobalIdentity
	cluster string
	id      uint32
	number  uint64
}

func (i *identityKey) GetKeyName() string       { return strconv.FormatUint(i.number, 10) }
func (i *identityKey) Marshal() ([]byte, error) { return []byte(i.GetKey()), nil }

func (i *identityKey) Unmarshal(key string, value []byte) error {
	number, err := strconv.ParseUint(key, 10, 64)
	if err != nil {
		return err
	}
	low, high := identity.GetMinimalAllocationIdentity(i.id), identity.GetMaximumAllocationIdentity(i.id)
	if number < uint64(low) || number > uint64(high) {
		return fmt.Errorf("ID %d is not between %d and %d", number, low, high)
	}
	parsed := i.PutKey(string(value))
	i.number, i.LabelArray = number, parsed.(*identitykey.GlobalIdentity).LabelArray
	for _, l := range i.LabelArray {
		if l.Key == ciliumio.PolicyLabelCluster && l.Source == labels.LabelSourceK8s && l.Value == i.cluster {
			return nil
		}
	}
	return fmt.Errorf("no label %s:%s=%s", labels.LabelSourceK8s, ciliumio.PolicyLabelCluster, i.cluster)
}

// show is a value for people: two of them are compared by it.
func show(k store.Key) string {
	text, err := json.MarshalIndent(k, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func nodeOf(k store.Key) *nodetypes.Node { return &k.(*nodestore.ValidatingNode).Node }
