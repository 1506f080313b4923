package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

func newCACommand(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Look at a cluster's certificate authority, and replace it",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newCAStatusCommand(opts), newCARotateCommand(opts))
	return cmd
}

// withRotation makes one call to the service of the cluster that the admin file names.
func withRotation(ctx context.Context, opts *options, fn func(rotationpb.RotationClient) error) error {
	conn, err := dialGateway(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return fn(rotationpb.NewRotationClient(conn))
}

func newCAStatusCommand(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the authority, the one that replaces it, and who does not have that yet",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withRotation(cmd.Context(), opts, func(client rotationpb.RotationClient) error {
				answer, err := ask(cmd.Context(), client.Status, &rotationpb.StatusRequest{})
				if err != nil {
					return err
				}
				if opts.output == "json" {
					return printJSON(cmd.OutOrStdout(), answer)
				}
				return writeAuthorities(cmd.OutOrStdout(), answer, time.Now())
			})
		},
	}
}

func newCARotateCommand(opts *options) *cobra.Command {
	var finish, force, only bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the cluster's authority while its certificates are in use",
		Long: `Make a new authority beside the old one. Both are trusted until all peers and agents
have the new one, which they are given over the connections that they have, and
have renewed their certificates, which takes some seconds. The old one ends by
itself ten minutes after the start if nobody needs it any more, or with --finish at
once. "causeway ca status" says who needs it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if force && !finish {
				return errors.New("--force goes with --finish")
			}
			return withRotation(cmd.Context(), opts, func(client rotationpb.RotationClient) error {
				if finish {
					return finishRotation(cmd, opts, client, force)
				}
				answer, err := ask(cmd.Context(), client.Start, &rotationpb.StartRequest{OnlyReplica: only})
				if err != nil {
					return err
				}
				if opts.output == "json" {
					return printJSON(cmd.OutOrStdout(), answer)
				}
				fmt.Fprintln(cmd.OutOrStdout(), "A new authority is made, and trusted beside the old one. causeway ca status shows who follows.")
				return writeAuthorities(cmd.OutOrStdout(), answer, time.Now())
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&finish, "finish", false, "end the old authority now; refused with the names of those that need it")
	f.BoolVar(&force, "force", false, "with --finish: cut those off that need it, and say who they are")
	f.BoolVar(&only, "only-replica", false, "say that no other API server of this cluster runs until the end; needed with an external etcd")
	return cmd
}

func finishRotation(cmd *cobra.Command, opts *options, client rotationpb.RotationClient, force bool) error {
	answer, err := ask(cmd.Context(), client.Finish, &rotationpb.FinishRequest{Force: force})
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if opts.output == "json" {
		return printJSON(out, answer)
	}
	if answer.Status.GetStage() == "" {
		fmt.Fprintln(out, "The old authority is gone; what it signed is refused.")
	} else {
		fmt.Fprintln(out, "The new authority signs; the others have a moment to follow. Then once more: causeway ca rotate --finish --force")
	}
	for _, b := range answer.Cut {
		fmt.Fprintf(out, "cut off: %s %s, %s\n", b.Role, b.Name, wayBack(b.Role))
	}
	return writeAuthorities(out, answer.Status, time.Now())
}

func wayBack(role string) string {
	if role == "peer" {
		return "which comes back by a new invitation for it: causeway invite --peer"
	}
	return "which comes back by a new certificate and the new ca.crt: causeway agent token"
}

// writeAuthorities shows an answer to a person.
func writeAuthorities(out io.Writer, r *rotationpb.StatusResponse, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "AUTHORITY\tSINCE\tENDS\tSIGNS")
	for _, a := range r.Authorities {
		signs := "no"
		if a.Signs {
			signs = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s (%d days)\t%s\n", a.Fingerprint, day(a.Begins), day(a.Ends), int(a.Ends.AsTime().Sub(now).Hours())/24, signs)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Stage == "" {
		_, err := fmt.Fprintf(out, "\n%d peers and agents have certificates.\n", r.Holders)
		return err
	}
	fmt.Fprintf(out, "\nBeing replaced, begun %s (%s). Of %d peers and agents with certificates ", ago(r.Started, now), r.Stage, r.Holders)
	switch {
	case len(r.Behind) == 0 && r.ByHand != "":
		_, err := fmt.Fprintf(out, "none is known to need the old one. It does not end by itself (%s), but by: causeway ca rotate --finish\n", r.ByHand)
		return err
	case len(r.Behind) == 0:
		_, err := fmt.Fprintf(out, "none needs the old one. It ends by itself at %s, or now: causeway ca rotate --finish\n", r.EndsAfter.AsTime().Local().Format("15:04:05"))
		return err
	}
	fmt.Fprintln(out, "these need the old one:")
	fmt.Fprintln(w, "HOLDER\tITS CERTIFICATE ENDS\tWHY")
	for _, b := range r.Behind {
		fmt.Fprintf(w, "%s %s\t%s\t%s\n", b.Role, b.Name, day(b.Ends), b.Reason)
	}
	return w.Flush()
}

func day(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format("2006-01-02")
}
