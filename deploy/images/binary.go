package main

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"runtime/debug"
)

// machines are what ELF calls the architectures that Go names so.
func machines() map[string]elf.Machine {
	return map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
}

// checkBinary refuses a program that would not start in an empty root on the
// architecture.
func checkBinary(path, architecture string) error {
	want, ok := machines()[architecture]
	if !ok {
		return fmt.Errorf("-arch %q is neither amd64 nor arm64", architecture)
	}
	file, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is no program for Linux: %w", path, err)
	}
	defer func() { _ = file.Close() }() // it was only read
	if file.Machine != want {
		return fmt.Errorf("%s is for %s, not for %s: build it with GOARCH=%s", path, file.Machine, want, architecture)
	}
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs shared libraries, of which the image has none: build it with CGO_ENABLED=0", path)
		}
	}
	return nil
}

// revision returns the commit that a Go program was built from, "" when it does not
// know.
func revision(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return ""
	}
	return commitOf(info.Settings)
}

func commitOf(settings []debug.BuildSetting) string {
	commit, changed := "", ""
	for _, setting := range settings {
		switch {
		case setting.Key == "vcs.revision":
			commit = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			changed = "-dirty"
		}
	}
	if commit == "" {
		return ""
	}
	return commit + changed
}
