package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/process"
	"github.com/causeway-mesh/causeway/pkg/rotation"
	"github.com/causeway-mesh/causeway/pkg/token"
)

// registrar is a service of the gateway.
type registrar interface{ Register(r grpc.ServiceRegistrar) }

// newDoor returns the gateway with its services, what lets agents begin there,
// what lets other clusters join and puts them out, and what replaces the authority.
func newDoor(
	cfg *config, authority *pki.Authority, server *tls.Config, etcd *kvstore.Client, engine *merge.Engine, peers *peer.Manager,
	kubernetes *kube.Client, kept keeping, reached *reach, log *slog.Logger, registry prometheus.Registerer, services ...registrar,
) (*gateway.Gateway, *join.Manager, *rotation.Manager, error) {
	var door *gateway.Gateway
	claims, _ := cfg.claims() // validate has seen them
	reserved, _ := parseRanges(cfg.reservedCIDR)
	exclusions := gateway.NewExclusions(log)
	var members *join.Manager
	authorities := newRotation(cfg, authority, etcd, exclusions, func() <-chan struct{} { return door.Listening() },
		func() []join.Issued { return members.Issued() }, log, registry)
	var err error
	members, err = join.New(join.Config{
		Cluster: cfg.cluster(), Version: process.Version(), Dir: cfg.joined(), Resources: cfg.resources(), Authority: authority, PeerTTL: cfg.peerTTL, Etcd: etcd,
		Addresses: func() []string { return reached.addresses(door.Addr()) },
		Ranges:    func() []netip.Prefix { return cfg.ownRanges(engine) },
		Claims:    claims, Reserved: reserved,
		Peers: peers.Status, Beliefs: peers.Beliefs, Exclude: exclusions.Exclude, Readmit: exclusions.Readmit, Proven: gateway.Proven, Logger: log, Registerer: registry,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	tokens := token.New(token.Config{
		Cluster: cfg.clusterName, Authority: authority, TTL: cfg.agentTTL, Etcd: etcd,
		Addresses: func() []string { return reached.addresses(door.Addr()) },
		Account:   cfg.agentAccount, Reviewer: kubernetes, // there is one where there is an account
		Nodes:  func() []string { return cfg.ownNodes(engine) },
		Logger: log, Registerer: registry,
	})
	door = gateway.New(gateway.Config{
		Cluster: cfg.clusterName, Listen: cfg.listen, TLS: server, Etcd: etcd.Etcd().ActiveConnection(), Exclusions: exclusions,
		Register: func(r grpc.ServiceRegistrar) {
			r = kept.registrar(r)
			for _, s := range append(services, members, authorities, tokens) {
				s.Register(r)
			}
		},
		Logger: log, Registerer: registry,
	})
	return door, members, authorities, nil
}

// claims are what other clusters are to hold this one to, as far as flags say it.
func (c *config) claims() (out []trust.Claim, err error) {
	for _, field := range []struct {
		flag  string
		class trust.Class
		texts []string
	}{
		{"pod-cidr", trust.Pods, c.podCIDR},
		{"mesh-cidr", trust.Mesh, c.meshCIDR},
		{"node-cidr", trust.Nodes, c.nodeCIDR},
		{"external-cidr", trust.External, c.externalCIDR},
	} {
		ranges, err := parseRanges(field.texts)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", field.flag, err)
		}
		for _, r := range ranges {
			out = append(out, trust.Claim{Class: field.class, Range: r})
		}
	}
	slices.SortFunc(out, trust.CompareClaims)
	return slices.Compact(out), nil
}

// joined is where pkg/join keeps the peers that joined.
func (c *config) joined() string { return filepath.Join(c.dataDir, "joined") }

// addresses are host:port by which others may reach the gateway: what --advertise
// says, else what it listens on, else all addresses of this machine.
func (c *config) addresses(bound net.Addr, interfaces func() ([]net.Addr, error)) []string {
	host, port, _ := net.SplitHostPort(c.listen) // validate has seen it
	if tcp, ok := bound.(*net.TCPAddr); ok {
		port = strconv.Itoa(tcp.Port)
	}
	hosts := c.advertise
	if ip, err := netip.ParseAddr(host); len(hosts) == 0 && host != "" && (err != nil || !ip.IsUnspecified()) {
		hosts = []string{host}
	}
	if len(hosts) == 0 {
		all, _ := interfaces() // none is what can be said then
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
				hosts = append(hosts, p.Addr().String())
			}
		}
	}
	out := make([]string, 0, len(hosts))
	for _, h := range hosts {
		out = append(out, net.JoinHostPort(h, port))
	}
	return out[:min(len(out), join.MaxAddresses)]
}

// ownRanges are those of this cluster's pods and of its nodes' mesh addresses.
func (c *config) ownRanges(engine *merge.Engine) []netip.Prefix {
	out, _ := c.meshRanges() // validate has seen them
	engine.Read(func(state *merge.State) {
		for key, n := range state.AllNodes() {
			if key.Cluster == c.clusterName {
				for _, p := range n.PodCIDRs {
					out = append(out, p.Masked())
				}
			}
		}
	})
	return out
}

// ownNodes returns the names of this cluster's nodes, as far as they are known.
func (c *config) ownNodes(engine *merge.Engine) (out []string) {
	engine.Read(func(state *merge.State) {
		for key := range state.AllNodes() {
			if key.Cluster == c.clusterName {
				out = append(out, key.Name)
			}
		}
	})
	return out
}

// runAfter runs what must not begin before ready is closed.
func runAfter(ctx context.Context, ready <-chan struct{}, run func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-ready:
		return run(ctx)
	}
}
