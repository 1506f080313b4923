package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/process"
	"github.com/causeway-mesh/causeway/pkg/source"
)

// validateSource checks that the flags name one source.
func (c *config) validateSource() error {
	given := 0
	for _, is := range []bool{c.manifestsDir != "", c.kubeconfig != "", c.inCluster} {
		if is {
			given++
		}
	}
	switch given {
	case 0:
		return errors.New("one of --manifests-dir, --kubeconfig and --in-cluster is required: where this cluster's objects are read")
	case 1:
		return nil
	}
	return errors.New("--manifests-dir, --kubeconfig and --in-cluster: give one of them, a cluster has one source")
}

// reader is a source of the cluster's objects.
type reader interface {
	Run(ctx context.Context) error
	Problems() []source.Problem
}

// newReader returns the source that the flags name and, where it is the Kubernetes
// API, that one's address. Other replicas may follow the same API server.
func (c *config) newReader(sink source.Sink, log *slog.Logger, registry prometheus.Registerer) (r reader, server string, err error) {
	if c.manifestsDir != "" {
		return source.NewManifests(source.ManifestsConfig{
			Dir: c.manifestsDir, StateDir: filepath.Join(c.dataDir, "manifests"),
			Sink: sink, Logger: log, Registerer: registry,
		}), "", nil
	}
	client, err := kube.New(kube.Config{
		Kubeconfig: c.kubeconfig, UIDFile: filepath.Join(c.dataDir, "kubernetes-uid"),
		Component: name, Version: process.Version(), Logger: log,
	})
	if err != nil {
		return nil, "", err
	}
	return source.NewKubernetes(source.KubernetesConfig{Client: client, Sink: sink, Logger: log, Registerer: registry}), client.Server(), nil
}

// unread says what is not known before the source was read once.
func (c *config) unread() string {
	if c.manifestsDir != "" {
		return "the manifests have not all been read yet"
	}
	return "the objects of the Kubernetes API have not all been read yet"
}
