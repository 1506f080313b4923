package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
)

// addressFilter is the flags that narrow a list of addresses.
type addressFilter struct {
	within, cluster, node, namespace, pod string
	identity                              uint32
	labels                                []string
}

// filterFlags are the names of its flags.
func filterFlags() []string {
	return []string{"within", "cluster", "node", "namespace", "pod", "identity", "label"}
}

func (a *addressFilter) flags(f *pflag.FlagSet) {
	f.StringVar(&a.within, "within", "", "only this address, or what lies in this prefix")
	f.StringVar(&a.cluster, "cluster", "", "only addresses of this cluster")
	f.StringVar(&a.node, "node", "", "only addresses on this node")
	f.StringVar(&a.namespace, "namespace", "", "only addresses of pods in this namespace")
	f.StringVar(&a.pod, "pod", "", "only addresses of pods with this name")
	f.Uint32Var(&a.identity, "identity", 0, "only addresses with this identity number")
	f.StringArrayVar(&a.labels, "label", nil, "only addresses whose identity has this label, key=value; may be repeated")
}

// given returns a flag that was given, "" for none.
func (a *addressFilter) given(f *pflag.FlagSet) string {
	for _, name := range filterFlags() {
		if f.Changed(name) {
			return name
		}
	}
	return ""
}

func (a *addressFilter) request() *adminpb.AddressesRequest {
	return &adminpb.AddressesRequest{
		Within: a.within, Cluster: a.cluster, Node: a.node, Namespace: a.namespace, Pod: a.pod, Identity: a.identity, Labels: a.labels,
	}
}

func (a *addressFilter) filter() (merge.Filter, error) {
	return merge.ParseFilter(merge.Filter{
		Cluster: a.cluster, Node: a.node, Namespace: a.namespace, Pod: a.pod, Identity: identity.Number(a.identity), Labels: a.labels,
	}, a.within)
}

func showAddresses(cmd *cobra.Command, opts *options, filter *addressFilter) error {
	answer, err := askAddresses(cmd.Context(), opts, filter.request())
	if err != nil {
		return err
	}
	if opts.output == "json" {
		return printJSON(cmd.OutOrStdout(), answer)
	}
	list := make([]address, 0, len(answer.Addresses))
	for _, a := range answer.Addresses {
		list = append(list, address{a.Address, a.Cluster, a.Node, a.Namespace, a.Pod, a.Identity, a.Labels})
	}
	return writeAddresses(cmd.OutOrStdout(), list)
}

// address is who is behind one address.
type address struct {
	Address   string   `json:"address"`
	Cluster   string   `json:"cluster"`
	Node      string   `json:"node"`
	Namespace string   `json:"namespace"`
	Pod       string   `json:"pod"`
	Identity  uint32   `json:"identity"`
	Labels    []string `json:"labels"`
}

func addressOf(e merge.Entry) address {
	return address{e.Address(), e.Cluster, e.Node, e.Namespace, e.Pod, uint32(e.Identity), e.LabelList()}
}

// askAddresses collects all messages of an answer.
func askAddresses(ctx context.Context, opts *options, request *adminpb.AddressesRequest) (*adminpb.AddressesResponse, error) {
	client, conn, err := dial(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	all := &adminpb.AddressesResponse{}
	stream, err := client.Addresses(ctx, request)
	for err == nil {
		var part *adminpb.AddressesResponse
		if part, err = stream.Recv(); err == nil {
			all.Addresses = append(all.Addresses, part.Addresses...)
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("ask the API server: %s", status.Convert(err).Message())
	}
	return all, nil
}

// writeAddresses shows who is who to a person.
func writeAddresses(out io.Writer, addresses []address) error {
	if len(addresses) == 0 {
		_, err := fmt.Fprintln(out, "No such address.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tCLUSTER\tNODE\tPOD\tIDENTITY\tLABELS")
	for _, a := range addresses {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", a.Address, a.Cluster, orDash(a.Node), orDash(a.pod()), a.Identity, orDash(shortLabels(a.Labels)))
	}
	return w.Flush()
}

// pod is namespace/name, "" for what is no pod.
func (a address) pod() string {
	if a.Pod == "" {
		return ""
	}
	return a.Namespace + "/" + a.Pod
}

// shortLabels leaves out what other columns say, and the source that nearly all
// labels have.
func shortLabels(labels []string) string {
	var out []string
	for _, l := range labels {
		l = strings.TrimPrefix(l, identity.SourceKubernetes+":")
		key, value, _ := strings.Cut(l, "=")
		if key == identity.LabelCluster || key == identity.LabelNamespace {
			continue
		}
		if value == "" {
			l = key
		}
		out = append(out, l)
	}
	return strings.Join(out, " ")
}
