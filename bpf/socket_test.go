// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

package bpf

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

// Go writes these types into the maps byte by byte: a seal covers whole words,
// and no byte may be undefined.
func TestLayout(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"service key": {unsafe.Sizeof(SocketServiceKey{}), 20},
		"service":     {unsafe.Sizeof(SocketService{}), 168},
		"slot key":    {unsafe.Sizeof(SocketSlotKey{}), 12},
		"slot":        {unsafe.Sizeof(SocketSlot{}), 32},
		"backend":     {unsafe.Sizeof(SocketBackend{}), 32},
	} {
		if size[0] != size[1] {
			t.Errorf("%s has %d bytes in Go, %d in C", name, size[0], size[1])
		}
	}
	last := []struct {
		name         string
		offset, size uintptr
	}{
		{"service", unsafe.Offsetof(SocketService{}.Seal), unsafe.Sizeof(SocketService{})},
		{"slot", unsafe.Offsetof(SocketSlot{}.Seal), unsafe.Sizeof(SocketSlot{})},
		{"backend", unsafe.Offsetof(SocketBackend{}.Seal), unsafe.Sizeof(SocketBackend{})},
	}
	for _, l := range last {
		if l.offset != l.size-8 {
			t.Errorf("the seal of a %s is at %d, not its last word", l.name, l.offset)
		}
	}
}

// The verifier's work decides how long an agent takes to start, and old kernels
// refuse a program on which they spend too much of it.
func TestVerifier(t *testing.T) {
	sandbox.Require(t)
	spec, err := LoadSocket()
	if err != nil {
		t.Fatal(err)
	}
	var programs SocketPrograms
	err = spec.LoadAndAssign(&programs, &ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer programs.Close()
	checkVerified(t, 20_000, programs.Connect4, programs.Connect6, programs.Sendmsg4, programs.Sendmsg6, programs.Recvmsg4, programs.Recvmsg6, programs.Getpeername4, programs.Getpeername6, programs.SockRelease)
}

// checkVerified wants the verifier to follow at most so many instructions.
func checkVerified(t *testing.T, most uint32, programs ...*ebpf.Program) {
	t.Helper()
	for _, p := range programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		verified, ok := info.VerifiedInstructions()
		size, _ := info.JitedSize()
		t.Logf("%s: %d instructions verified, %d bytes of machine code; %s", info.Name, verified, size, p.VerifierLog)
		if !ok || verified > most {
			t.Errorf("%s: the verifier follows %d instructions", info.Name, verified)
		}
	}
}

// Whoever builds the objects, and wherever, gets the same bytes.
func TestObjectNamesNoPath(t *testing.T) {
	checkNoPath(t, _SocketBytes)
}

func checkNoPath(t *testing.T, object []byte) {
	t.Helper()
	for _, path := range []string{"/root/", "/home/", "/tmp/", "/work/", "/src/", "/usr/"} {
		if bytes.Contains(object, []byte(path)) {
			t.Errorf("the object contains %q", path)
		}
	}
}
