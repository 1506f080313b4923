package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

func newInviteCommand(opts *options) *cobra.Command {
	var ttl time.Duration
	var request joinpb.InviteRequest
	var allow []string
	var list, forCilium bool
	var other issuing
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print an invitation, by which one other cluster can join this one once",
		Long: `Print an invitation: one line of text that holds where this cluster is reached, the
fingerprint of its authority, and a secret. It goes to whoever runs the other
cluster, by a way that nobody else reads; there "causeway join INVITATION" makes the
two read each other.

With --for-cilium, print what a cluster that runs Cilium needs to read this one: the
entries of its Secret cilium-clustermesh, or files, with a certificate of 365 days and its
private key. "causeway peers renew" makes the next one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("allow-cidr") && len(allow) == 0 { // as of a variable that is not set: it would allow all
				return errors.New("--allow-cidr names no range: give one, or leave it out to allow what nobody else has")
			}
			if forCilium {
				other.request.Addresses = request.Addresses
				return other.issue(cmd, opts)
			}
			conn, err := dialGateway(cmd.Context(), opts)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			client := joinpb.NewMembershipClient(conn)
			if list {
				answer, err := ask(cmd.Context(), client.Describe, &joinpb.DescribeRequest{})
				if err != nil {
					return err
				}
				return showInvitations(cmd.OutOrStdout(), opts, answer, time.Now())
			}
			request.Ttl = durationpb.New(ttl)
			request.Allow = allow
			answer, err := ask(cmd.Context(), client.Invite, &request)
			if err != nil {
				return err
			}
			if err := bounded(allow, answer.Allow); err != nil {
				return err
			}
			if opts.output == "json" {
				return printJSON(cmd.OutOrStdout(), answer)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "For one use until %s, by whoever has it; the other cluster has to reach %s:\n",
				answer.Expires.AsTime().Local().Format("Jan _2 15:04 MST"), strings.Join(answer.Addresses, " or "))
			fmt.Fprintln(cmd.ErrOrStderr(), answer.HeldTo)
			if len(answer.Allow) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "who joins by it says what it claims, inside of %s\n", strings.Join(answer.Allow, ", "))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), answer.Invitation)
			return err
		},
	}
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is good, 1s to 720h")
	f.StringVar(&request.Peer, "peer", "", "only the cluster of this `name` may use it; needed where that is a peer already (default: any that is none yet)")
	f.StringArrayVar(&request.Addresses, "address", nil, "`host:port` by which the other cluster reaches this one, may be repeated (default: what the API server has in --advertise, else of its --gateway-service, else in --listen)")
	f.StringSliceVar(&allow, "allow-cidr", nil, "`ranges` inside of which the other cluster has to say what it claims, for pods, mesh addresses, nodes and backends; several with commas (default: what nobody else has)")
	f.BoolVar(&list, "list", false, "show the invitations of this cluster and who used them instead")
	f.BoolVar(&forCilium, "for-cilium", false, "make what a cluster that runs Cilium needs to read this one instead, with --name and --id")
	f.StringVar(&other.request.Name, "name", "", "with --for-cilium: name of the other cluster")
	f.Uint32Var(&other.request.Id, "id", 0, "with --for-cilium: its number")
	other.flags(f)
	cmd.MarkFlagsRequiredTogether("for-cilium", "name", "id")
	for _, flag := range []string{"list", "peer", "ttl", "allow-cidr"} {
		cmd.MarkFlagsMutuallyExclusive("for-cilium", flag)
	}
	cmd.MarkFlagsMutuallyExclusive("list", "peer")
	cmd.MarkFlagsMutuallyExclusive("list", "allow-cidr")
	cmd.MarkFlagsMutuallyExclusive("list", "address")
	cmd.MarkFlagsMutuallyExclusive("list", "ttl")
	return cmd
}

// bounded refuses an invitation of an API server that has passed over what it may allow.
func bounded(asked, allowed []string) error {
	if len(asked) > 0 && len(allowed) == 0 {
		return errors.New("the API server is of a version that does not know --allow-cidr, and would let any ranges be claimed: the invitation is not shown; upgrade the API server")
	}
	return nil
}

// showInvitations shows those of a cluster, without the secrets, which nobody has.
func showInvitations(out io.Writer, opts *options, r *joinpb.DescribeResponse, now time.Time) error {
	if opts.output == "json" {
		return printJSON(out, &joinpb.Invitations{Invitations: r.Invitations})
	}
	if len(r.Invitations) == 0 {
		_, err := fmt.Fprintln(out, "No invitations.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "INVITATION\tFOR\tMAY CLAIM\tMADE\tSTATE")
	for _, i := range r.Invitations {
		peer := i.Peer
		if peer == "" {
			peer = "any"
		}
		allowed := "any range"
		if len(i.Allow) > 0 {
			allowed = strings.Join(i.Allow, " ")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.Id, peer, allowed, ago(i.Created, now), invitationState(i, now))
	}
	return w.Flush()
}

func invitationState(i *joinpb.Invitation, now time.Time) string {
	end := i.Expires.AsTime().Local().Format("Jan _2 15:04 MST")
	switch {
	case i.Used != nil:
		return fmt.Sprintf("used by %s, %s", i.UsedBy, ago(i.Used, now))
	case now.After(i.Expires.AsTime()):
		return "ended at " + end
	}
	return "good until " + end
}
