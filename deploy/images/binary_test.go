package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// executable returns the least that is an ELF program: its header, and one part.
func executable(t *testing.T, machine elf.Machine, part elf.ProgType) []byte {
	t.Helper()
	var out bytes.Buffer
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	for _, each := range []any{header, elf.Prog64{Type: uint32(part)}} {
		if err := binary.Write(&out, binary.LittleEndian, each); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestCheckBinary(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text               []byte
		architecture, want string
	}{
		"static":          {executable(t, elf.EM_X86_64, elf.PT_LOAD), "amd64", ""},
		"static arm":      {executable(t, elf.EM_AARCH64, elf.PT_LOAD), "arm64", ""},
		"another's":       {executable(t, elf.EM_X86_64, elf.PT_LOAD), "arm64", "build it with GOARCH=arm64"},
		"dynamic":         {executable(t, elf.EM_X86_64, elf.PT_INTERP), "amd64", "build it with CGO_ENABLED=0"},
		"text":            {[]byte("#!/bin/sh\n"), "amd64", "is no program for Linux"},
		"no such machine": {executable(t, elf.EM_X86_64, elf.PT_LOAD), "z80", "neither amd64 nor arm64"},
	} {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, test.text, 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkBinary(path, test.architecture)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestCommit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settings []debug.BuildSetting
		want     string
	}{
		"clean":     {[]debug.BuildSetting{{Key: "vcs.revision", Value: "1a2b"}, {Key: "vcs.modified", Value: "false"}}, "1a2b"},
		"changed":   {[]debug.BuildSetting{{Key: "vcs.modified", Value: "true"}, {Key: "vcs.revision", Value: "1a2b"}}, "1a2b-dirty"},
		"not known": {[]debug.BuildSetting{{Key: "vcs.modified", Value: "true"}}, ""},
	} {
		if got := commitOf(test.settings); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestDockerfile: who builds with docker gets the same images.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string]string{}
	for _, stage := range strings.Split(string(text), "\nFROM ") {
		first, rest, _ := strings.Cut(stage, "\n")
		if name, ok := strings.CutPrefix(first, "scratch AS "); ok {
			stages[name] = rest
		}
	}
	made := images(config{binaries: "bin", repository: "causeway", tag: "v1"})
	if len(stages) != len(made) {
		t.Errorf("%d images, want %d", len(stages), len(made))
	}
	for _, image := range made {
		program := filepath.Base(image.Program)
		stage := stages[program]
		if !strings.Contains(stage, "\nENTRYPOINT [\"/"+program+"\"]") {
			t.Errorf("%s does not start its program: %q", program, stage)
		}
		_, after, _ := strings.Cut(stage, "\nUSER ")
		if user, _, _ := strings.Cut(after, "\n"); user != image.User {
			t.Errorf("%s runs as %q, want %q", program, user, image.User)
		}
	}
}
