package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

// connectTTL is how long the invitations are good that connect makes and uses.
const connectTTL = 5 * time.Minute

// parallelPairs is how many pairs are joined at a time, pairTime what is allowed for
// each besides joinTimeout.
const (
	parallelPairs = 4
	pairTime      = 10 * time.Second
)

// reachCallTimeout is for a look from one cluster at the addresses of another.
const reachCallTimeout = 20 * time.Second

func newConnectCommand(opts *options) *cobra.Command {
	var contexts []string
	cmd := &cobra.Command{
		Use:   "connect ADMIN-FILE ADMIN-FILE... | --contexts NAME,NAME...",
		Short: "Join all of several clusters with each other, where you have the admin file of each",
		Long: `Join all of several clusters with each other: each reads every other. A cluster is
named by its admin file, <data-dir>/admin.yaml of its API server, or by the directory
that this is in; or, in Kubernetes, by its context (--contexts). All that speaks against
it is said at once, before anything changes. Several pairs are joined at a time, and one
that fails keeps no other up. What is joined already stays as it is; what broke off
half-way is finished by doing it again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ways := waysOf(args)
			for _, name := range contexts {
				ways = append(ways, opts.kubernetes.way(name))
			}
			if len(ways) < 2 {
				return errors.New("give at least two clusters, by their admin files or --contexts")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), connectTime(len(ways)))
			defer cancel()
			err := brokenOff(cmd.Context(), connect(ctx, ways, inTurn(func(s step) { showStep(cmd.OutOrStdout(), opts, s) })))
			if err != nil && opts.output == "json" {
				_ = json.NewEncoder(cmd.OutOrStdout()).Encode(step{Error: err.Error()})
			}
			return err
		},
	}
	opts.kubernetes.contextsFlag(cmd.Flags(), &contexts)
	return cmd
}

// brokenOff is the error of a command whose ctx somebody ended, which can be given
// again: what it was at, and not that requests were cancelled.
func brokenOff(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	said := []string{"broken off: the same command goes on from here"}
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, context.Canceled.Error()) {
			said = append(said, line)
		}
	}
	return errors.New(strings.Join(said, "\n  "))
}

// connectTime is what joining n clusters may take.
func connectTime(n int) time.Duration { return joinTimeout + time.Duration(n*n/2)*pairTime }

// way is how one cluster is reached.
type way struct {
	name string // in messages
	dial func(context.Context) (*grpc.ClientConn, error)
	// addresses returns host:port by which others reach the gateway, none where its
	// API server knows best; nil for the same.
	addresses func(context.Context) ([]string, error)
}

// side is a cluster that is to be joined with others.
type side struct {
	client  joinpb.MembershipClient
	conn    io.Closer
	facts   join.Facts
	said    *joinpb.Facts // what facts were read from
	print   []byte
	members map[string]*joinpb.Member
	// addresses are what others are told to dial, none where its API server says that.
	addresses []string
}

// waysOf are the ways by admin files, or the directories that these are in.
func waysOf(files []string) []way {
	var ways []way
	for _, file := range files {
		ways = append(ways, way{name: file, dial: func(context.Context) (*grpc.ClientConn, error) { return dialFile(adminFileOf(file)) }})
	}
	return ways
}

func connect(ctx context.Context, ways []way, show func(step)) error {
	sides, err := openSides(ctx, ways)
	defer func() {
		for _, s := range sides {
			_ = s.conn.Close()
		}
	}()
	if err != nil {
		return err
	}
	if wrong := checkSides(ctx, sides); len(wrong) > 0 {
		return fmt.Errorf("nothing was changed:\n  %s", strings.Join(wrong, "\n  "))
	}
	show(step{Step: fmt.Sprintf("%d clusters fit together and reach each other", len(sides))})
	return connectAll(ctx, sides, show)
}

// connectAll joins all pairs, several at a time. show may be called at the same time.
func connectAll(ctx context.Context, sides []*side, show func(step)) error {
	var group errgroup.Group
	group.SetLimit(parallelPairs)
	errs := make([]error, len(sides)*len(sides))
	for i, a := range sides {
		for j, b := range sides[i+1:] {
			group.Go(func() error {
				errs[i*len(sides)+j] = connectPair(ctx, a, b, show)
				return nil
			})
		}
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// inTurn lets show be called at the same time.
func inTurn(show func(step)) func(step) {
	var mu sync.Mutex
	return func(s step) {
		mu.Lock()
		defer mu.Unlock()
		show(s)
	}
}

// openSides asks all clusters at the same time, as their clocks are compared.
func openSides(ctx context.Context, ways []way) ([]*side, error) {
	var sides []*side
	var asked errgroup.Group
	for _, w := range ways {
		conn, err := w.dial(ctx)
		if err != nil {
			return sides, err
		}
		s := &side{client: joinpb.NewMembershipClient(conn), conn: conn}
		sides = append(sides, s)
		asked.Go(func() error {
			err := s.describe(ctx)
			if err == nil && w.addresses != nil {
				s.addresses, err = w.addresses(ctx)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if len(s.addresses) > 0 {
				s.facts.Addresses = s.addresses
			}
			return nil
		})
	}
	return sides, asked.Wait()
}

// adminFileOf is the file itself, or the one in a data directory.
func adminFileOf(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return filepath.Join(path, "admin.yaml")
	}
	return path
}

func (s *side) describe(ctx context.Context) error {
	asked := time.Now()
	answer, err := ask(ctx, s.client.Describe, &joinpb.DescribeRequest{})
	if err != nil {
		return err
	}
	if s.facts, err = join.ParseFacts(answer.Facts); err != nil {
		return err
	}
	s.said = answer.Facts
	// As of the call, which may have taken a while.
	s.facts.Time = s.facts.Time.Add(-time.Since(asked))
	s.print, s.members = answer.Fingerprint, map[string]*joinpb.Member{}
	for _, m := range answer.Members {
		s.members[m.Name] = m
	}
	return nil
}

// checkFacts returns what speaks against joining the clusters in what they say of
// themselves.
func checkFacts(sides []*side) (wrong []string) {
	for i, a := range sides {
		for _, b := range sides[i+1:] {
			wrong = append(wrong, join.Compare(a.facts, b.facts)...)
		}
	}
	return wrong
}

// checkSides returns all that speaks against joining the clusters.
func checkSides(ctx context.Context, sides []*side) (wrong []string) {
	wrong = checkFacts(sides)
	names := map[string]bool{}
	for _, s := range sides {
		names[s.facts.Name] = true
	}
	if len(names) < len(sides) { // nobody could say who reaches whom
		return wrong
	}
	return append(wrong, askEach(sides, func(from, to *side) []string {
		return append(from.refuses(ctx, to), from.unreached(ctx, to)...)
	})...)
}

// askEach asks every cluster about every other, all at once, and returns what they say.
func askEach(sides []*side, about func(from, to *side) []string) (wrong []string) {
	var group errgroup.Group
	found := make([][]string, len(sides)*len(sides))
	for i, from := range sides {
		for j, to := range sides {
			if i != j {
				group.Go(func() error {
					found[i*len(sides)+j] = about(from, to)
					return nil
				})
			}
		}
	}
	_ = group.Wait()
	return slices.Concat(found...)
}

// refuses returns what a cluster would refuse another one for, by what it knows of third
// ones and of before. One that is older is not asked: it says so when it is joined.
func (s *side) refuses(ctx context.Context, other *side) []string {
	answer, err := ask(ctx, func(ctx context.Context, r *joinpb.FitsRequest, how ...grpc.CallOption) (*joinpb.FitsResponse, error) {
		answer, err := s.client.Fits(ctx, r, how...)
		if status.Code(err) == codes.Unimplemented {
			return nil, nil
		}
		return answer, err
	}, &joinpb.FitsRequest{Facts: other.said, Fingerprint: other.print})
	if err != nil {
		return []string{fmt.Sprintf("%s was not asked whether %s fits: %v", s.facts.Name, other.facts.Name, err)}
	}
	return answer.GetProblems()
}

func (s *side) unreached(ctx context.Context, to *side) []string {
	ctx, cancel := context.WithTimeout(ctx, reachCallTimeout)
	defer cancel()
	answer, err := s.client.Reach(ctx, &joinpb.ReachRequest{Name: to.facts.Name, Fingerprint: to.print, Addresses: to.facts.Addresses})
	switch {
	case err != nil:
		return []string{fmt.Sprintf("%s was not asked whether it reaches %s: %v", s.facts.Name, to.facts.Name, plain(err))}
	case len(answer.Reached) == 0:
		return []string{fmt.Sprintf("%s does not reach %s: %s; give %s's API server the addresses by which others do with --advertise",
			s.facts.Name, to.facts.Name, strings.Join(answer.Problems, ", "), to.facts.Name)}
	}
	return nil
}

// connectPair joins two clusters unless each reads the other.
func connectPair(ctx context.Context, a, b *side, show func(step)) error {
	if a.reads(b) && b.reads(a) {
		show(step{Step: fmt.Sprintf("%s and %s read each other already", a.facts.Name, b.facts.Name)})
		return nil
	}
	invitation, err := ask(ctx, a.client.Invite, &joinpb.InviteRequest{Ttl: durationpb.New(connectTTL), Peer: b.facts.Name, Addresses: a.addresses})
	if err != nil {
		return fmt.Errorf("%s: %w", a.facts.Name, err)
	}
	accept := func(ctx context.Context, client joinpb.MembershipClient) (grpc.ServerStreamingClient[joinpb.Step], error) {
		return client.Accept(ctx, &joinpb.AcceptRequest{Invitation: invitation.Invitation, Addresses: b.addresses})
	}
	err = follow(ctx, b.client, accept, func(s step) {
		s.Cluster = b.facts.Name + " with " + a.facts.Name
		show(s)
	})
	if err != nil {
		return fmt.Errorf("join %s with %s: %w", b.facts.Name, a.facts.Name, err)
	}
	return nil
}

// reads reports whether a cluster reads another one well, so that nothing is to do.
func (s *side) reads(other *side) bool {
	m := s.members[other.facts.Name]
	return m != nil && m.State == "synced"
}
