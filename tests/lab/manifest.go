package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// Object is a Kubernetes object as its manifest has it.
type Object map[string]any

// Kind, Namespace and Name identify an Object; each is "" when it is missing.
func (o Object) Kind() string      { return text(o, "kind") }
func (o Object) Namespace() string { return text(o, "metadata", "namespace") }
func (o Object) Name() string      { return text(o, "metadata", "name") }

// decode fills out, a pointer to a typed object.
func (o Object) decode(out any) error {
	raw, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(raw, out)
	}
	if err != nil {
		return fmt.Errorf("read %s %s/%s: %w", o.Kind(), o.Namespace(), o.Name(), err)
	}
	return nil
}

func text(o map[string]any, path ...string) string {
	for i, key := range path {
		if i == len(path)-1 {
			s, _ := o[key].(string)
			return s
		}
		o, _ = o[key].(map[string]any)
	}
	return ""
}

// Objects returns all objects of the cluster's manifests, the items of Lists
// one by one.
func (c *Cluster) Objects() ([]Object, error) {
	var all []Object
	files, err := manifestFiles(c.ManifestsDir())
	for _, file := range files {
		objects, readErr := readObjects(file)
		err = errors.Join(err, readErr)
		all = append(all, objects...)
	}
	return all, err
}

// WriteManifest puts a file into the cluster's manifests, at once and whole.
func (c *Cluster) WriteManifest(name string, content []byte) error {
	return writeWhole(filepath.Join(c.ManifestsDir(), name), content, 0o644)
}

// RemoveManifest deletes a file of the cluster's manifests.
func (c *Cluster) RemoveManifest(name string) error {
	if err := os.Remove(filepath.Join(c.ManifestsDir(), name)); err != nil {
		return fmt.Errorf("remove a manifest: %w", err)
	}
	return nil
}

// Edit gives every object of the manifests to change, which may alter it and
// reports whether it stays. Files in which nothing changed are left alone, the
// others become one List. The pods follow with the next Sync.
func (c *Cluster) Edit(change func(Object) (keep bool)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	files, err := manifestFiles(c.ManifestsDir())
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := editFile(file, change); err != nil {
			return err
		}
	}
	return nil
}

// Annotate sets annotations of one Service; an empty value removes one.
func (c *Cluster) Annotate(namespace, service string, annotations map[string]string) error {
	found := false
	err := c.Edit(func(o Object) bool {
		if o.Kind() != "Service" || o.Namespace() != namespace || o.Name() != service {
			return true
		}
		found = true
		metadata, _ := o["metadata"].(map[string]any)
		have, _ := metadata["annotations"].(map[string]any)
		if have == nil {
			have = map[string]any{}
			metadata["annotations"] = have
		}
		for key, value := range annotations {
			if have[key] = value; value == "" {
				delete(have, key)
			}
		}
		return true
	})
	if err == nil && !found {
		err = fmt.Errorf("cluster %s has no Service %s/%s", c.Name, namespace, service)
	}
	return err
}

// EndPod marks a pod as one that is being deleted, as the API server of a real
// cluster shows it until its processes have ended: it serves, and takes no new
// connections where another pod can.
func (c *Cluster) EndPod(namespace, name string) error {
	found := false
	err := c.Edit(func(o Object) bool {
		if o.Namespace() != namespace {
			return true
		}
		switch o.Kind() {
		case "Pod":
			if o.Name() == name {
				found = true
				metadata, _ := o["metadata"].(map[string]any)
				metadata["deletionTimestamp"] = time.Now().UTC().Format(time.RFC3339)
			}
		case "EndpointSlice":
			endpoints, _ := o["endpoints"].([]any)
			for _, e := range endpoints {
				endpoint, _ := e.(map[string]any)
				if isOfPod(endpoint, name) {
					endpoint["conditions"] = map[string]any{"ready": false, "serving": true, "terminating": true}
				}
			}
		}
		return true
	})
	if err == nil && !found {
		err = fmt.Errorf("cluster %s has no pod %s/%s", c.Name, namespace, name)
	}
	return err
}

// DeletePod takes a pod and its endpoints out of the manifests, as the API
// server of a real cluster shows it. Its processes run until the next Sync.
func (c *Cluster) DeletePod(namespace, name string) error {
	found := false
	err := c.Edit(func(o Object) bool {
		if o.Namespace() != namespace {
			return true
		}
		switch o.Kind() {
		case "Pod":
			found = found || o.Name() == name
			return o.Name() != name
		case "EndpointSlice":
			endpoints, _ := o["endpoints"].([]any)
			o["endpoints"] = slices.DeleteFunc(endpoints, func(e any) bool {
				endpoint, _ := e.(map[string]any)
				return isOfPod(endpoint, name)
			})
		}
		return true
	})
	if err == nil && !found {
		err = fmt.Errorf("cluster %s has no pod %s/%s", c.Name, namespace, name)
	}
	return err
}

// isOfPod reports whether an endpoint of a slice is the pod's.
func isOfPod(endpoint map[string]any, name string) bool {
	return text(endpoint, "targetRef", "kind") == "Pod" && text(endpoint, "targetRef", "name") == name
}

func editFile(file string, change func(Object) bool) error {
	objects, err := readObjects(file)
	if err != nil {
		return err
	}
	before, err := readObjects(file)
	if err != nil {
		return err
	}
	objects = slices.DeleteFunc(objects, func(o Object) bool { return !change(o) })
	if reflect.DeepEqual(before, objects) {
		return nil
	}
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": objects}
	content, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return fmt.Errorf("write %q: %w", file, err)
	}
	return writeWhole(file, append(content, '\n'), 0o644) // JSON is YAML
}

func readObjects(file string) ([]Object, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read a manifest: %w", err)
	}
	var objects []Object
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var o Object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse %q: %w", file, err)
		}
		if items, ok := o["items"].([]any); ok && strings.HasSuffix(o.Kind(), "List") {
			for _, item := range items {
				object, _ := item.(map[string]any)
				objects = append(objects, object)
			}
			continue
		}
		if len(o) > 0 {
			objects = append(objects, o)
		}
	}
}

// manifestFiles lists what a manifests folder holds, sub-folders included.
func manifestFiles(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && isManifest(entry.Name()) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	return files, nil
}

func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// copyManifests copies a file, or the manifests of a folder, unedited.
func copyManifests(from, dir string) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("find manifests: %w", err)
	}
	files := []string{from}
	base := filepath.Dir(from)
	if info.IsDir() {
		base = from
		if files, err = manifestFiles(from); err != nil {
			return err
		}
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("copy a manifest: %w", err)
		}
		name, err := filepath.Rel(base, file)
		if err != nil {
			return fmt.Errorf("copy a manifest: %w", err)
		}
		if err := writeWhole(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeWhole makes a reader see the old content or the new one, nothing else.
func writeWhole(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	return nil
}
