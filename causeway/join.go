package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

// joinTimeout bounds what an API server does for one join or disconnect, waits for
// the peer's state included.
const joinTimeout = 2 * time.Minute

// maxInvitationInput bounds what is read from a file or a pipe, in bytes.
const maxInvitationInput = 64 << 10

func newJoinCommand(opts *options) *cobra.Command {
	var request joinpb.AcceptRequest
	var other declaring
	cmd := &cobra.Command{
		Use:   "join INVITATION | --etcd-config FILE --name NAME --id ID",
		Short: "Join the cluster that made the invitation, so that each reads the other",
		Long: `Join the cluster that made the invitation. This cluster's API server makes a key and
asks the other one for a certificate, and gives it one in the same exchange, so that
each reads the other. INVITATION is what "causeway invite" printed there, or "-" to read
it from standard input. What broke off half-way is finished by doing it again.

A cluster that can not join, as those that run Cilium, is made a peer by the etcd client
file that it has for others, one way: it is read, by a certificate that is not renewed.
What it needs to read this one is made by "causeway invite --for-cilium".`,
		Args: func(cmd *cobra.Command, args []string) error {
			if other.file != "" {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if other.file != "" {
				if err := other.prepare(); err != nil {
					return err
				}
				return change(cmd, opts, other.ask)
			}
			text, err := invitationText(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			request.Invitation = text
			return change(cmd, opts, func(ctx context.Context, client joinpb.MembershipClient) (stepStream, error) {
				return client.Accept(ctx, &request)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&request.OneWay, "one-way", false, "only read the other cluster, which does not read this one; for where it can not reach this one")
	f.StringArrayVar(&request.Addresses, "address", nil, "`host:port` by which the other cluster reaches this one, may be repeated (default: what the API server has in --advertise, else of its --gateway-service, else in --listen)")
	other.flags(f)
	for _, flag := range []string{"one-way", "address"} {
		cmd.MarkFlagsMutuallyExclusive("etcd-config", flag)
	}
	return cmd
}

func newDisconnectCommand(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "disconnect PEER",
		Short: "Put a cluster out: its certificates are refused, its connections cut, what it said is no longer used",
		Long: `Put a cluster out. From now on this cluster refuses the certificates that the other one
has, cuts its connections, and takes what it said out of use. The other side is not
asked. It comes back by a new invitation only ("causeway invite --peer PEER").`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return change(cmd, opts, func(ctx context.Context, client joinpb.MembershipClient) (stepStream, error) {
				return client.Disconnect(ctx, &joinpb.DisconnectRequest{Peer: args[0]})
			})
		},
	}
}

// invitationText is the argument, or what is read in its place: an argument can be
// seen by others on the machine.
func invitationText(in io.Reader, arg string) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInvitationInput))
	if err != nil {
		return "", fmt.Errorf("read the invitation: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// stepStream is the answer to what takes several steps.
type stepStream = grpc.ServerStreamingClient[joinpb.Step]

// step is a line of output for a program.
type step struct {
	Cluster string `json:"cluster,omitempty"`
	Step    string `json:"step,omitempty"`
	// Warning says that something is left to a person.
	Warning bool `json:"warning"`
	// Kind tells lines of one command apart where it has several kinds.
	Kind  string `json:"kind,omitempty"`
	Error string `json:"error,omitempty"`
}

// change asks for what takes several steps and shows each when it was done. What
// went wrong is the error, in JSON a line of its own besides.
func change(cmd *cobra.Command, opts *options, call func(context.Context, joinpb.MembershipClient) (stepStream, error)) error {
	conn, err := dialGateway(cmd.Context(), opts)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(cmd.Context(), joinTimeout)
	defer cancel()
	show := func(s step) { showStep(cmd.OutOrStdout(), opts, s) }
	err = follow(ctx, joinpb.NewMembershipClient(conn), call, show)
	if err != nil && opts.output == "json" {
		show(step{Error: err.Error()})
	}
	return err
}

func follow(
	ctx context.Context, client joinpb.MembershipClient,
	call func(context.Context, joinpb.MembershipClient) (stepStream, error), show func(step),
) error {
	stream, err := call(ctx, client)
	for err == nil {
		var s *joinpb.Step
		if s, err = stream.Recv(); err == nil {
			show(step{Step: s.Text, Warning: s.Warning})
		}
	}
	if !errors.Is(err, io.EOF) {
		return plain(err)
	}
	return nil
}

// plain is what an API server says, without how it said it.
func plain(err error) error { return errors.New(status.Convert(err).Message()) }

func showStep(out io.Writer, opts *options, s step) {
	if opts.output == "json" {
		_ = json.NewEncoder(out).Encode(s)
		return
	}
	mark := "ok"
	if s.Warning {
		mark = "!!"
	}
	who := ""
	if s.Cluster != "" {
		who = s.Cluster + ": "
	}
	fmt.Fprintf(out, "%s  %s%s\n", mark, who, s.Step)
}
