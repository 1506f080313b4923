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

	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

func newAgentCommand(opts *options) *cobra.Command {
	cmd := &cobra.Command{Use: "agent", Short: "Let the agents of nodes begin"}
	cmd.AddCommand(newAgentTokenCommand(opts))
	return cmd
}

func newAgentTokenCommand(opts *options) *cobra.Command {
	var ttl time.Duration
	var list bool
	var revoke string
	request := &strangerpb.MakeRequest{}
	cmd := &cobra.Command{
		Use:   "token NODE",
		Short: "Print a token, by which the agent of a node gets its first certificate once",
		Long: `Print a token: one line of text that holds where this cluster is reached, the
fingerprint of its authority, a secret, and the name of the node. It goes into a file
on that node, by a way that nobody else reads; "node-agent --join-token-file FILE" gets
the agent's certificate for it, for a key that it makes itself.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (list || revoke != "") != (len(args) == 0) {
				return errors.New("give the NODE that the token is for, or --list, or --revoke NODE")
			}
			conn, err := dialGateway(cmd.Context(), opts)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			client := strangerpb.NewTokensClient(conn)
			if list {
				answer, err := ask(cmd.Context(), client.List, &strangerpb.ListRequest{})
				if err != nil {
					return err
				}
				return showTokens(cmd.OutOrStdout(), opts, answer, time.Now())
			}
			if revoke != "" {
				answer, err := ask(cmd.Context(), client.Revoke, &strangerpb.RevokeRequest{Node: revoke})
				if err != nil {
					return err
				}
				return showRevoked(cmd.OutOrStdout(), opts, answer)
			}
			request.Node, request.Ttl = args[0], durationpb.New(ttl)
			answer, err := ask(cmd.Context(), client.Make, request)
			if err != nil {
				return err
			}
			if opts.output == "json" {
				return printJSON(cmd.OutOrStdout(), answer)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "For the agent of node %s, once, until %s; the node has to reach %s:\n", request.Node,
				answer.Expires.AsTime().Local().Format("Jan _2 15:04 MST"), strings.Join(answer.Addresses, " or "))
			if answer.Warning != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "!! "+answer.Warning)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), answer.Token)
			return err
		},
	}
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it is good, 1s to 720h")
	f.StringArrayVar(&request.Addresses, "address", nil, "`host:port` by which the node reaches this cluster's gateway, may be repeated (default: what the API server has in --advertise, else of its --gateway-service, else in --listen)")
	f.BoolVar(&list, "list", false, "show the tokens of this cluster and which were used instead")
	f.StringVar(&revoke, "revoke", "", "take back all tokens of this `node` that are still good instead, used or not; certificates that it got stay good")
	cmd.MarkFlagsMutuallyExclusive("list", "revoke")
	for _, flag := range []string{"list", "revoke"} {
		cmd.MarkFlagsMutuallyExclusive(flag, "address")
		cmd.MarkFlagsMutuallyExclusive(flag, "ttl")
	}
	return cmd
}

func showRevoked(out io.Writer, opts *options, r *strangerpb.RevokeResponse) error {
	if opts.output == "json" {
		return printJSON(out, r)
	}
	for _, t := range r.Tokens {
		text := "nobody used it"
		if t.Used != nil {
			text = "it was used: the certificate that its user got is good until it ends"
		}
		if _, err := fmt.Fprintf(out, "token %s of node %s is taken back; %s\n", t.Id, t.Node, text); err != nil {
			return err
		}
	}
	return nil
}

// showTokens shows those of a cluster, without the secrets, which nobody has.
func showTokens(out io.Writer, opts *options, r *strangerpb.ListResponse, now time.Time) error {
	if opts.output == "json" {
		return printJSON(out, r)
	}
	if len(r.Tokens) == 0 {
		_, err := fmt.Fprintln(out, "No tokens.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tNODE\tMADE\tSTATE")
	for _, t := range r.Tokens {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Id, t.Node, ago(t.Created, now), tokenState(t, now))
	}
	return w.Flush()
}

func tokenState(t *strangerpb.Token, now time.Time) string {
	end := t.Expires.AsTime().Local().Format("Jan _2 15:04 MST")
	switch {
	case t.Revoked != nil:
		return "taken back " + ago(t.Revoked, now)
	case t.Used != nil:
		return "used " + ago(t.Used, now)
	case now.After(t.Expires.AsTime()):
		return "ended at " + end
	}
	return "good until " + end
}
