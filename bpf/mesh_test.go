// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

package bpf

import (
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// As TestLayout, for the programs of packets.
func TestMeshLayout(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"address key": {unsafe.Sizeof(MeshAddressKey{}), 16},
		"address":     {unsafe.Sizeof(MeshAddress{}), 16},
		"host":        {unsafe.Sizeof(MeshHost{}), 16},
		"node":        {unsafe.Sizeof(MeshNode{}), 32},
		"range key":   {unsafe.Sizeof(MeshRangeKey{}), 20},
		"settings":    {unsafe.Sizeof(MeshSettings{}), 40},
		"counter":     {unsafe.Sizeof(MeshCounter{}), 32},
		"event":       {unsafe.Sizeof(MeshPacketEvent{}), 80},
	} {
		if size[0] != size[1] {
			t.Errorf("%s has %d bytes in Go, %d in C", name, size[0], size[1])
		}
	}
}

// As TestVerifier, for the programs of packets.
func TestMeshVerifier(t *testing.T) {
	sandbox.Require(t)
	spec, err := LoadMesh()
	if err != nil {
		t.Fatal(err)
	}
	var programs MeshPrograms
	err = spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer programs.Close()
	checkVerified(t, 30_000, programs.ToMesh, programs.FromMesh)
}

// As TestObjectNamesNoPath.
func TestMeshObjectNamesNoPath(t *testing.T) {
	checkNoPath(t, _MeshBytes)
}
