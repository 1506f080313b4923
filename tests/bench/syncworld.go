package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/bench/mesh"
	"github.com/causeway-mesh/causeway/tests/lab"
)

// The own cluster of each world, the largest number that a mesh has.
const (
	ownCluster = "here"
	ownID      = 255
)

// The processes of a world, as figures name them.
const (
	apiServer = "API server"
	nodeAgent = "agent"
	peerName  = "peer"
)

// worldConfig says what a world is made of.
type worldConfig struct {
	spec mesh.Spec
	// hub lets one etcd show all clusters, under the cache prefixes.
	hub bool
	// manifests writes those of the own cluster; nil means the Services that
	// match the spec's.
	manifests func(io.Writer) error
	// apiServer and agent are flags besides the usual.
	apiServer, agent []string
	// files is the folder for all files, "" for that of temporary ones.
	files string
}

// memoryDir is a folder that is on no disk.
const memoryDir = "/dev/shm"

// world is the own cluster, with an API server on one node and an agent on
// another, and what stands for its peers: real processes, each in a namespace
// of its own.
type world struct {
	worldConfig
	dir     string
	lab     *lab.Lab
	here    *lab.Cluster
	worker  *lab.Node
	remotes []mesh.Remote
	address netip.Addr // of the peer

	api, agent, peer *lab.Process
	maps             *agentMaps
	peerStore        store
	ownStore         store
	undo             []func() error
}

// newWorld makes a world without processes. The caller closes it.
func newWorld(ctx context.Context, binaries string, config worldConfig) (w *world, err error) {
	w = &world{worldConfig: config}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp(config.files, "causeway-bench-"); err != nil {
		return w, err
	}
	w.undo = append(w.undo, func() error { return os.RemoveAll(w.dir) })
	w.lab, err = lab.New(ctx, lab.Config{Binaries: binaries, State: w.dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return w, err
	}
	w.undo = append(w.undo, w.lab.Close)
	if w.here, err = w.lab.AddCluster(ctx, lab.ClusterSpec{Name: ownCluster, ID: ownID}); err != nil {
		return w, err
	}
	for i := range 2 {
		ip := netip.AddrFrom4([4]byte{198, 18, 0, byte(i + 1)})
		if w.worker, err = w.here.AddNode(ctx, lab.NodeSpec{Name: "node-" + strconv.Itoa(i), IPs: []netip.Addr{ip}}); err != nil {
			return w, err
		}
	}
	for i := range config.spec.Clusters {
		w.remotes = append(w.remotes, mesh.Remote{Spec: config.spec, Index: i, Cached: config.hub})
	}
	return w, w.writeManifests()
}

func (w *world) writeManifests() error {
	write := w.manifests
	if write == nil {
		write = w.spec.WriteServices
	}
	file, err := os.Create(filepath.Join(w.here.ManifestsDir(), "bench.yaml"))
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// close ends all processes and removes all files.
func (w *world) close() error {
	var errs []error
	for i := len(w.undo) - 1; i >= 0; i-- {
		errs = append(errs, w.undo[i]())
	}
	w.undo = nil
	return errors.Join(errs...)
}

// startPeer starts the peer and publishes the state of all remote clusters.
func (w *world) startPeer(ctx context.Context) error {
	outside, err := w.lab.AddCluster(ctx, lab.ClusterSpec{Name: peerName, ID: 1})
	if err != nil {
		return err
	}
	w.address = netip.AddrFrom4([4]byte{198, 18, 1, 1})
	node, err := outside.AddNode(ctx, lab.NodeSpec{Name: "gateway", IPs: []netip.Addr{w.address}})
	if err != nil {
		return err
	}
	kind, name := "gateway", w.remotes[0].Name()
	if w.hub {
		kind, name = "hub", "hub"
	}
	w.peer, err = node.Start(ctx, lab.Command{
		Name: "peer", Path: "/proc/self/exe", Args: []string{partPeer, kind, name, w.peerDir(), w.address.String()}, Ready: true,
	})
	if err != nil {
		return err
	}
	if w.peerStore, err = openStore(peerSocket(w.peerDir())); err != nil {
		return err
	}
	w.undo = append(w.undo, w.peerStore.Close)
	for _, r := range w.remotes {
		if err := w.peerStore.publish(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) peerDir() string { return filepath.Join(w.dir, "peer-data") }

// startOwn starts the API server and the agent and waits until what the
// manifests say is in effect.
func (w *world) startOwn(ctx context.Context) (err error) {
	if w.api, err = w.here.StartAPIServer(ctx, append([]string{"--pprof"}, w.apiServer...)...); err != nil {
		return err
	}
	if err := w.here.AwaitReady(ctx); err != nil {
		return err
	}
	if w.ownStore, err = openStore(filepath.Join(w.here.DataDir(), "etcd", "etcd.sock")); err != nil {
		return err
	}
	w.undo = append(w.undo, w.ownStore.Close)
	if err := w.startAgent(ctx); err != nil {
		return err
	}
	return w.awaitAgent(ctx)
}

func (w *world) startAgent(ctx context.Context) (err error) {
	flags := []string{"--pprof", "--map-capacity", strconv.Itoa(datapath.DefaultCapacity)}
	w.agent, err = w.worker.StartAgent(ctx, append(flags, w.worldConfig.agent...)...)
	return err
}

// awaitAgent returns once the agent has its first complete state in the maps.
func (w *world) awaitAgent(ctx context.Context) (err error) {
	if err := w.here.AwaitReady(ctx); err != nil {
		return err
	}
	if w.maps, err = openMaps(w.worker.BPFFS()); err != nil {
		return err
	}
	w.undo = append(w.undo, w.maps.close)
	return nil
}

// start makes everything run, with no peer known to the own cluster yet.
func (w *world) start(ctx context.Context) error {
	if err := w.startPeer(ctx); err != nil {
		return fmt.Errorf("start the peer: %w", err)
	}
	if err := w.startOwn(ctx); err != nil {
		return fmt.Errorf("start the own cluster: %w", err)
	}
	return nil
}

// connect writes the peer files of all remote clusters.
func (w *world) connect() error {
	name, port := w.remotes[0].Name(), peerPort
	if w.hub {
		name, port = "hub", hubPort
	}
	authority, err := pki.OpenAuthority(filepath.Join(w.peerDir(), "pki"), name)
	if err != nil {
		return err
	}
	pair, err := authority.Issue(pki.Request{Role: pki.RolePeer, Name: ownCluster, TTL: time.Hour})
	if err != nil {
		return err
	}
	cert, key := filepath.Join(w.dir, "peer.crt"), filepath.Join(w.dir, "peer.key")
	if err := pair.Save(cert, key); err != nil {
		return err
	}
	for _, r := range w.remotes {
		pods, hosts, external := r.Claims()
		text, err := yaml.Marshal(map[string]any{
			"endpoints":       []string{"https://" + net.JoinHostPort(w.address.String(), strconv.Itoa(port))},
			"trusted-ca-file": authority.CertFile(), "cert-file": cert, "key-file": key,
			"claims": map[string]any{"podCIDRs": pods, "nodeCIDRs": hosts, "externalCIDRs": external},
		})
		if err != nil {
			return err
		}
		if err := w.here.WritePeer(r.Name(), text); err != nil {
			return err
		}
	}
	return nil
}

// pids are the processes whose use is measured.
func (w *world) pids() map[string]int {
	pids := map[string]int{apiServer: w.api.PID(), nodeAgent: w.agent.PID()}
	if w.peer != nil {
		pids[peerName] = w.peer.PID()
	}
	return pids
}
