package hostile

import (
	"fmt"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// configs are cases of what a peer says about itself.
func configs() []config {
	change := func(name, why string, change func(*cluster.Config)) config {
		return config{name: name, why: why, value: func(p *peer) []byte {
			c := cluster.Config{Name: p.name, ID: cluster.ID(p.id), Size: 255, SyncedCanaries: true, ExportMode: cluster.ExportServicesAndSlices}
			change(&c)
			return must(wire.EncodeConfig(c))
		}}
	}
	text := func(name, why, value string) config {
		return config{name: name, why: why, value: func(p *peer) []byte { return []byte(strings.ReplaceAll(value, "ID", fmt.Sprint(p.id))) }}
	}
	taken := change("another peer's id", "is held by", func(c *cluster.Config) { c.ID = 2 })
	taken.drains = true
	return []config{
		change("our id", "this cluster's id", func(c *cluster.Config) { c.ID = 1 }),
		taken,
		change("another size of the mesh", "sizes of the meshes differ", func(c *cluster.Config) { c.Size = 511 }),
		text("id 0", "", `{"id":0,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}`),
		text("id 256 of 255", "", `{"id":256,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}`),
		text("a negative id", "", `{"id":-1,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}`),
		text("a size that there is not", "", `{"id":ID,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":1000000}}`),
		text("garbage", "", "\xff{garbage"),
		text("nothing", "", ""),
	}
}

// config is a case of a cluster config that can not be accepted.
type config struct {
	name, why string
	value     func(*peer) []byte
	// drains says that what was said under the id before goes.
	drains bool
}
