package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

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
		if c.peerSecrets != "" && c.manifestsDir != "" {
			return errors.New("--peer-secrets-namespace: only Kubernetes has Secrets, so --in-cluster or --kubeconfig is needed in place of --manifests-dir")
		}
		return c.validateAccount()
	}
	return errors.New("--manifests-dir, --kubeconfig and --in-cluster: give one of them, a cluster has one source")
}

// validateAccount checks the service account of agents.
func (c *config) validateAccount() error {
	if c.agentAccount == "" {
		return nil
	}
	if c.manifestsDir != "" {
		return errors.New("--agent-service-account: only Kubernetes knows whose tokens are good, so --in-cluster or --kubeconfig is needed in place of --manifests-dir")
	}
	namespace, account, ok := strings.Cut(c.agentAccount, "/")
	if !ok || namespace == "" || account == "" || strings.ContainsAny(account, "/:") || strings.Contains(namespace, ":") {
		return fmt.Errorf("--agent-service-account: %q is not namespace/name", c.agentAccount)
	}
	return nil
}

// reader is a source of the cluster's objects.
type reader interface {
	Run(ctx context.Context) error
	Problems() []source.Problem
}

// newReader returns the source that the flags name and, where it is the Kubernetes
// API, what asks that. Other replicas may follow the same API server.
func (c *config) newReader(sink source.Sink, log *slog.Logger, registry prometheus.Registerer) (r reader, kubernetes *kube.Client, err error) {
	if c.manifestsDir != "" {
		return source.NewManifests(source.ManifestsConfig{
			Dir: c.manifestsDir, StateDir: filepath.Join(c.dataDir, "manifests"),
			Sink: sink, Logger: log, Registerer: registry,
		}), nil, nil
	}
	client, err := c.newClient(log)
	if err != nil {
		return nil, nil, err
	}
	return source.NewKubernetes(source.KubernetesConfig{Client: client, Sink: sink, Logger: log, Registerer: registry}), client, nil
}

// newClient returns what asks the Kubernetes API, and has asked nothing yet.
func (c *config) newClient(log *slog.Logger) (*kube.Client, error) {
	client, err := kube.New(kube.Config{
		Kubeconfig: c.kubeconfig, UIDFile: filepath.Join(c.dataDir, "kubernetes-uid"),
		Component: name, Version: process.Version(), Logger: log,
	})
	if err != nil {
		flag := "--kubeconfig"
		if c.inCluster {
			flag = "--in-cluster"
		}
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return client, nil
}

// serverOf returns the address of the Kubernetes API that is the source, "" for none.
func serverOf(kubernetes *kube.Client) string {
	if kubernetes == nil {
		return ""
	}
	return kubernetes.Server()
}

// unread says what is not known before the source was read once.
func (c *config) unread() string {
	if c.manifestsDir != "" {
		return "the manifests have not all been read yet"
	}
	return "the objects of the Kubernetes API have not all been read yet"
}
