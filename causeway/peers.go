package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

func newPeersCommand(opts *options) *cobra.Command {
	var offences bool
	cmd := &cobra.Command{
		Use:   "peers [PEER]",
		Short: "Show what is believed of peers: what they may claim, what is imported, what was refused",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := dialGateway(cmd.Context(), opts)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			name := strings.Join(args, "")
			known, err := ask(cmd.Context(), joinpb.NewMembershipClient(conn).Describe, &joinpb.DescribeRequest{})
			if err != nil {
				return err
			}
			members, reader := membersOf(known, name)
			answer := &adminpb.PeersResponse{}
			if !reader { // which is no peer to ask about
				answer, err = ask(cmd.Context(), adminpb.NewAdminClient(conn).Peers, &adminpb.PeersRequest{Peer: name})
			}
			if err != nil {
				return err
			}
			if opts.output == "json" {
				return printTrust(cmd.OutOrStdout(), answer, members)
			}
			return writeTrust(cmd.OutOrStdout(), answer, members, offences, time.Now())
		},
	}
	cmd.Flags().BoolVar(&offences, "offences", false, "show the last 20 keys of each that were refused, with the reason (json always has them)")
	cmd.AddCommand(newApproveCommand(opts), newRenewCommand(opts))
	return cmd
}

func newApproveCommand(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "approve PEER [RANGE...]",
		Short: "Agree to the ranges that a peer names outside of its claims, or to some of them",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, conn, err := dial(cmd.Context(), opts)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			answer, err := ask(cmd.Context(), client.ApprovePeer, &adminpb.ApprovePeerRequest{Peer: args[0], Ranges: args[1:]})
			if err != nil {
				return err
			}
			if opts.output == "json" {
				return printJSON(cmd.OutOrStdout(), answer)
			}
			for _, c := range answer.Claims {
				fmt.Fprintf(cmd.OutOrStdout(), "%s may use %s for %s from now on\n", args[0], c.Range, c.Class)
			}
			return nil
		},
	}
}

// writeTrust shows an answer to a person.
func writeTrust(out io.Writer, r *adminpb.PeersResponse, members map[string]*joinpb.Member, offences bool, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	if len(r.Peers) == 0 {
		readers, out, begun := writeReaders(w, members, now), writeOut(w, members, now), writeBegun(w, members, now)
		if !readers && !out && !begun {
			fmt.Fprintln(w, "No peers.")
		}
		return w.Flush()
	}
	fmt.Fprintln(w, "PEER\tID\tSTATE\tADDRESS\tORIGIN\tCERTIFICATE\tCLAIMS\tWAITING\tREFUSED")
	for _, p := range r.Peers {
		m := members[p.Name]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", p.Name, id(p.Id), p.State, orDash(strings.Join(p.Endpoints, ",")),
			orDash(m.GetOrigin()), daysLeft(m, now), len(p.Claims), len(p.Waiting), refusals(p.Refused))
	}
	for _, p := range r.Peers {
		fmt.Fprintf(w, "\n%s\n", p.Name)
		if p.Reason != "" {
			fmt.Fprintf(w, "  %s\n", p.Reason)
		}
		writeClaims(w, p, now)
		writeMember(w, members[p.Name], now)
		fmt.Fprintf(w, "  imported\t%s\n", imported(p.Import))
		if offences {
			for _, o := range p.Offences {
				fmt.Fprintf(w, "  refused\t%s ago\t%s\t%q\t%q\n", age(o.Time, now), o.Reason, o.Key, o.Detail)
			}
		}
	}
	writeReaders(w, members, now)
	writeOut(w, members, now)
	writeBegun(w, members, now)
	return w.Flush()
}

func writeClaims(w io.Writer, p *adminpb.PeerTrust, now time.Time) {
	if len(p.Claims) == 0 {
		fmt.Fprintln(w, "  claims\tnone; what it names first will be agreed, unless its file says")
	}
	for _, c := range p.Claims {
		text := fmt.Sprintf("%s since %s", c.Origin, ago(c.Since, now))
		if c.LostTo != "" {
			text = fmt.Sprintf("not in effect: overlaps what %s claimed first", c.LostTo)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", c.Class, c.Range, text)
	}
	advice := "causeway peers approve " + p.Name
	if p.Declared {
		advice = "to agree, add it to the claims in the peer's file"
	}
	for _, c := range p.Waiting {
		fmt.Fprintf(w, "  %s\t%s\twaits: %s\n", c.Class, c.Range, advice)
	}
}

// imported says in words what is taken from a peer.
func imported(r *adminpb.ImportRules) string {
	text := "services of all namespaces"
	if len(r.Namespaces) > 0 {
		text = "services of " + strings.Join(r.Namespaces, ", ")
	}
	if r.ServiceSelector != "" {
		text += " with " + r.ServiceSelector
	}
	return text + fmt.Sprintf("; at most %d nodes, %d addresses, %d identities, %d services, %d MiB",
		r.MaxNodes, r.MaxAddresses, r.MaxIdentities, r.MaxServices, r.MaxBytes>>20)
}

// refusals shows counts by reason, the largest first.
func refusals(counts map[string]uint32) string {
	reasons := make([]string, 0, len(counts))
	for reason := range counts {
		reasons = append(reasons, reason)
	}
	slices.SortFunc(reasons, func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	parts := make([]string, 0, len(reasons))
	for _, r := range reasons {
		parts = append(parts, fmt.Sprintf("%s %d", r, counts[r]))
	}
	return orDash(strings.Join(parts, ", "))
}
