package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
)

// secret is a Kubernetes Secret, as far as it holds files.
type secret struct {
	Kind       string            `yaml:"kind"`
	Data       map[string]string `yaml:"data"`
	StringData map[string]string `yaml:"stringData"`
}

// readEtcdConfig fills in where and with what the cluster name is read: from an etcd
// client's configuration with the files that it names, or from a Secret that holds
// both, as Cilium's cilium-clustermesh does.
func readEtcdConfig(path, name string, into *joinpb.DeclareRequest) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the etcd client configuration: %w", err)
	}
	var s secret
	if err := yaml.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	read := func(file string) ([]byte, error) { return readNamed(file, filepath.Dir(path)) }
	if s.Kind == "Secret" {
		files, err := s.files()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if text = files[name]; text == nil {
			return fmt.Errorf("%s: the Secret has no entry %q, the configuration for that cluster", path, name)
		}
		read = func(file string) ([]byte, error) {
			if found, ok := files[filepath.Base(file)]; ok {
				return found, nil
			}
			return nil, fmt.Errorf("the Secret has no entry %q", filepath.Base(file))
		}
	}
	if err := fillIn(text, filepath.Dir(path), read, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func fillIn(text []byte, dir string, read func(file string) ([]byte, error), into *joinpb.DeclareRequest) error {
	file, err := peer.ParseFile(text, dir)
	if err != nil {
		return err
	}
	aliases, err := hostAliases(text)
	if err != nil {
		return err
	}
	if len(into.Endpoints) == 0 {
		into.Endpoints = resolved(file.Endpoints, aliases)
	}
	for _, part := range []struct {
		file string
		into *[]byte
	}{{file.TLS.CAFile, &into.Ca}, {file.TLS.CertFile, &into.Cert}, {file.TLS.KeyFile, &into.Key}} {
		if *part.into, err = read(part.file); err != nil {
			return err
		}
	}
	return nil
}

// files are the entries of a Secret.
func (s *secret) files() (map[string][]byte, error) {
	out := map[string][]byte{}
	for name, text := range s.Data {
		value, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("entry %q of the Secret: %w", name, err)
		}
		out[name] = value
	}
	for name, text := range s.StringData {
		out[name] = []byte(text)
	}
	return out, nil
}

// readNamed reads a file that a configuration names: where it says, or beside it, as
// it is when it was copied from where Cilium has it.
func readNamed(file, dir string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if beside, missing := os.ReadFile(filepath.Join(dir, filepath.Base(file))); missing == nil {
			return beside, nil
		}
	}
	return text, err
}

// hostAliases returns the addresses of host names that a configuration has for Cilium,
// in one of the two forms that there are.
func hostAliases(text []byte) (map[string][]string, error) {
	type addresses struct {
		Hostname string   `yaml:"hostname"`
		IPs      []string `yaml:"ips"`
	}
	var field struct {
		Aliases yaml.Node `yaml:"cilium-host-aliases"`
	}
	if err := yaml.Unmarshal(text, &field); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	var list []addresses
	var byName map[string]addresses
	switch field.Aliases.Kind {
	case 0:
	case yaml.SequenceNode:
		if err := field.Aliases.Decode(&list); err != nil {
			return nil, fmt.Errorf("cilium-host-aliases: %w", err)
		}
	default:
		if err := field.Aliases.Decode(&byName); err != nil {
			return nil, fmt.Errorf("cilium-host-aliases: %w", err)
		}
	}
	for _, a := range list {
		out[a.Hostname] = a.IPs
	}
	for name, a := range byName {
		out[name] = a.IPs
	}
	return out, nil
}

// resolved puts addresses in the place of host names that have aliases.
func resolved(endpoints []string, aliases map[string][]string) (out []string) {
	add := func(e string) {
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil || len(aliases[u.Hostname()]) == 0 {
			add(e)
			continue
		}
		for _, ip := range aliases[u.Hostname()] {
			add("https://" + net.JoinHostPort(ip, u.Port()))
		}
	}
	return out
}
