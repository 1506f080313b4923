package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// ciliumDir is where Cilium has the files of its cluster mesh.
const ciliumDir = "/var/lib/cilium/clustermesh"

// issuing is where what Cilium needs is to go.
type issuing struct {
	request   joinpb.IssueRequest
	directory string
	secret    string
	namespace string
}

func (i *issuing) flags(f *pflag.FlagSet) {
	f.StringVar(&i.directory, "directory", "", "write files into this `directory`, made when missing, not a Secret to standard output")
	f.StringVar(&i.secret, "secret", "cilium-clustermesh", "`name` of the Secret; with KVStoreMesh it is cilium-kvstoremesh that reads other clusters")
	f.StringVar(&i.namespace, "secret-namespace", "kube-system", "namespace of the Secret")
}

// issue asks for what a Cilium cluster needs and writes it. What is asked for is in
// force then, so it is first seen to that there is a place for it.
func (i *issuing) issue(cmd *cobra.Command, opts *options) error {
	if i.directory != "" {
		if err := makePrivate(i.directory); err != nil {
			return err
		}
	}
	conn, err := dialGateway(cmd.Context(), opts)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	answer, err := ask(cmd.Context(), joinpb.NewMembershipClient(conn).Issue, &i.request)
	if err != nil {
		return err
	}
	files, err := ciliumFiles(answer)
	if err != nil {
		return err
	}
	where := "The Secret"
	if i.directory != "" {
		where, answer.Key = i.directory, nil // which is in its file
		err = writeFiles(i.directory, files)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w; the certificate is made nevertheless: `causeway peers renew %s --directory DIRECTORY` writes another one", err, i.request.Name)
	case opts.output == "json":
		return printJSON(cmd.OutOrStdout(), answer)
	case i.directory == "":
		err = i.writeSecret(cmd.OutOrStdout(), files)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s holds a private key: give it to %s by a way that nobody else reads, and keep no copy. It is good until %s; before that, `causeway peers renew %s`.\n",
		where, i.request.Name, answer.Ends.AsTime().UTC().Format("Jan _2 2006 15:04 MST"), i.request.Name)
	return err
}

// hostAlias is an address of a host name that only Cilium knows.
type hostAlias struct {
	Hostname string   `yaml:"hostname"`
	IPs      []string `yaml:"ips"`
}

// ciliumConfig is an etcd client's configuration with Cilium's extension.
type ciliumConfig struct {
	Endpoints []string    `yaml:"endpoints"`
	CA        string      `yaml:"trusted-ca-file"`
	Cert      string      `yaml:"cert-file"`
	Key       string      `yaml:"key-file"`
	Aliases   []hostAlias `yaml:"cilium-host-aliases,omitempty"`
}

// ciliumFiles are what Cilium's side has to find in ciliumDir, by name. Our gateway's
// certificate carries its mesh name, which stands for addresses.
func ciliumFiles(r *joinpb.IssueResponse) (map[string][]byte, error) {
	prefix := filepath.Join(ciliumDir, r.Cluster) + ".etcd-client"
	config := ciliumConfig{CA: prefix + "-ca.crt", Cert: prefix + ".crt", Key: prefix + ".key"}
	alias := hostAlias{Hostname: meshName(r.Cluster)}
	for _, address := range r.Addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			alias.IPs = append(alias.IPs, ip.String())
			host = alias.Hostname
		}
		if at := "https://" + net.JoinHostPort(host, port); !slices.Contains(config.Endpoints, at) {
			config.Endpoints = append(config.Endpoints, at)
		}
	}
	if len(alias.IPs) > 0 {
		config.Aliases = []hostAlias{alias}
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration: %w", err)
	}
	return map[string][]byte{
		r.Cluster: text, r.Cluster + ".etcd-client-ca.crt": r.Ca, r.Cluster + ".etcd-client.crt": r.Cert, r.Cluster + ".etcd-client.key": r.Key,
	}, nil
}

// meshName is the one that Cilium's own certificates and documents use.
func meshName(clusterName string) string { return clusterName + ".mesh.cilium.io" }

func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	return nil
}

func writeFiles(dir string, files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := pki.WriteFile(filepath.Join(dir, name), files[name], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// writeSecret writes a manifest; the comment is for whoever finds it in a file.
func (i *issuing) writeSecret(out io.Writer, files map[string][]byte) error {
	data := map[string]string{}
	for name, text := range files {
		data[name] = base64.StdEncoding.EncodeToString(text)
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "data": data,
		"metadata": map[string]string{"name": i.secret, "namespace": i.namespace},
	})
	if err != nil {
		return fmt.Errorf("encode the Secret: %w", err)
	}
	how := fmt.Sprintf("kubectl patch secret %s -n %s --patch-file FILE", i.secret, i.namespace)
	_, err = fmt.Fprintf(out, "# Holds a private key. Where the Secret is there already, with other clusters in it:\n# %s\n%s", how, text)
	return err
}

func newRenewCommand(opts *options) *cobra.Command {
	var i issuing
	cmd := &cobra.Command{
		Use:   "renew PEER",
		Short: "Make another certificate for a cluster that cannot renew its own, as those that run Cilium",
		Long: `Make another certificate, with its key, for a cluster that has one of "causeway invite
--for-cilium". The one that it has stays good until its end.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i.request.Name, i.request.Renew = args[0], true
			return i.issue(cmd, opts)
		},
	}
	i.flags(cmd.Flags())
	cmd.Flags().StringArrayVar(&i.request.Addresses, "address", nil, "`host:port` by which the other cluster reaches this one, may be repeated (default: what the API server has in --advertise, else of its --gateway-service, else in --listen)")
	return cmd
}

// declaring is what makes a cluster a peer that does not join itself.
type declaring struct {
	file    string
	request joinpb.DeclareRequest
	// ranges are by class.
	pods, mesh, nodes, external []string
}

func (d *declaring) flags(f *pflag.FlagSet) {
	f.StringVar(&d.file, "etcd-config", "", "instead of an invitation, the etcd client `file` by which that cluster is read, or Cilium's Secret with it; see --name and --id")
	f.StringVar(&d.request.Name, "name", "", "with --etcd-config: name of the other cluster")
	f.Uint32Var(&d.request.Id, "id", 0, "with --etcd-config: its number, which is compared with what it says")
	f.StringArrayVar(&d.request.Endpoints, "endpoint", nil, "with --etcd-config: `https://host:port` instead of the file's endpoints, may be repeated")
	f.StringSliceVar(&d.pods, "pod-cidr", nil, "with --etcd-config: `ranges` of its pods, to which it is held; several with commas (default: what it names first)")
	f.StringSliceVar(&d.mesh, "mesh-cidr", nil, "the same for its nodes' mesh addresses, a Cilium cluster's CiliumInternalIPs")
	f.StringSliceVar(&d.nodes, "node-cidr", nil, "the same for the networks that its nodes are in")
	f.StringSliceVar(&d.external, "external-cidr", nil, "the same for backends of its services that are neither pods nor nodes")
}

// ask asks for the peer.
func (d *declaring) ask(ctx context.Context, client joinpb.MembershipClient) (stepStream, error) {
	return client.Declare(ctx, &d.request)
}

// prepare reads the file and what the flags say.
func (d *declaring) prepare() error {
	if d.request.Name == "" || d.request.Id == 0 {
		return errors.New("--etcd-config needs --name and --id of the other cluster")
	}
	for class, texts := range map[string][]string{"pods": d.pods, "mesh": d.mesh, "nodes": d.nodes, "external": d.external} {
		for _, text := range texts {
			d.request.Claims = append(d.request.Claims, &joinpb.Claim{Class: class, Range: strings.TrimSpace(text)})
		}
	}
	return readEtcdConfig(d.file, d.request.Name, &d.request)
}
