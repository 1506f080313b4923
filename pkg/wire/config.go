package wire

import (
	"encoding/json"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

type configJSON struct {
	ID           cluster.ID       `json:"id,omitempty"`
	Capabilities capabilitiesJSON `json:"capabilities"`
}

// oursJSON is what the reference's config has not, and its readers pass over.
type oursJSON struct {
	Causeway *causewayJSON `json:"causeway,omitempty"`
}

type causewayJSON struct {
	Gateway []string `json:"gateway,omitempty"`
}

type capabilitiesJSON struct {
	SyncedCanaries bool               `json:"syncedCanaries,omitempty"`
	Cached         bool               `json:"cached,omitempty"`
	MaxClusters    cluster.Size       `json:"maxConnectedClusters,omitempty"`
	ServiceExports *bool              `json:"serviceExportsEnabled,omitempty"`
	ExportMode     cluster.ExportMode `json:"endpointSlicesExportMode,omitempty"`
}

// EncodeConfig returns the value of ConfigKey(c.Name). gateway are the addresses,
// host:port, by which others reach the cluster's gateway; none where it does not say.
// Errors are those of c.Validate.
func EncodeConfig(c cluster.Config, gateway ...string) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := checkText("export mode", string(c.ExportMode)); err != nil {
		return nil, err
	}
	v := struct {
		configJSON
		oursJSON
	}{configJSON: configJSON{ID: c.ID, Capabilities: capabilitiesJSON{
		SyncedCanaries: c.SyncedCanaries,
		Cached:         c.Cached,
		MaxClusters:    c.Size,
		ServiceExports: c.ServiceExports,
		ExportMode:     c.ExportMode,
	}}}
	if len(gateway) > 0 {
		v.Causeway = &causewayJSON{Gateway: gateway}
	}
	return json.Marshal(v)
}

// DecodeGateway returns the gateway's addresses that the value of a config says, none
// where it does not or says what can not be read. They are not checked.
func DecodeGateway(value []byte) []string {
	var v oursJSON
	if checkSize(value, MaxValueBytes) != nil || json.Unmarshal(value, &v) != nil || v.Causeway == nil {
		return nil
	}
	return v.Causeway.Gateway
}

// DecodeConfig returns what the value of ConfigKey(name) says. Beside the
// sentinels of this package its error may be one of cluster.Config.Validate:
// an id of 0 or above the mesh's size, or another size than the two.
func DecodeConfig(name string, value []byte) (cluster.Config, error) {
	key := ConfigKey(name)
	if err := checkSize(value, MaxValueBytes); err != nil {
		return cluster.Config{}, decodeError(key, err)
	}
	var v configJSON
	if err := json.Unmarshal(value, &v); err != nil {
		return cluster.Config{}, decodeError(key, malformed("%v", err))
	}
	if v.Capabilities.MaxClusters == 0 {
		// Publishers from before there were two sizes.
		v.Capabilities.MaxClusters = cluster.Size255
	}
	c := cluster.Config{
		Name:           name,
		ID:             v.ID,
		Size:           v.Capabilities.MaxClusters,
		SyncedCanaries: v.Capabilities.SyncedCanaries,
		Cached:         v.Capabilities.Cached,
		ServiceExports: v.Capabilities.ServiceExports,
		ExportMode:     v.Capabilities.ExportMode,
	}
	if err := c.Validate(); err != nil {
		return cluster.Config{}, decodeError(key, err)
	}
	if err := checkText("export mode", string(c.ExportMode)); err != nil {
		return cluster.Config{}, decodeError(key, err)
	}
	return c, nil
}
