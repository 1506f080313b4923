package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/join"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/process"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
	"github.com/causeway-mesh/causeway/pkg/state"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
	"github.com/causeway-mesh/causeway/pkg/token"
)

const (
	// keptAgain is how long after an attempt to keep a new authority the next one is.
	keptAgain = time.Second
	// keptWithin is how long a call waits until what it changed is kept.
	keptWithin = 20 * time.Second
)

// keeping keeps what must outlive the data directory in Secrets; it does nothing
// where no flag asks for it.
type keeping struct {
	*state.Keeper
	dir   string
	ready *process.Condition
}

// validateState checks the flag.
func (c *config) validateState() error {
	if c.stateSecret != "" && c.manifestsDir == "" && len(c.etcdEndpoints) > 0 {
		return errors.New("--state-secret: is for one API server with its own etcd; with --etcd-endpoints the state is there, and the data directory needs a disk")
	}
	return c.validateNamed("--state-secret", c.stateSecret, "only Kubernetes has Secrets")
}

// newKeeping returns what has asked nothing yet.
func newKeeping(cfg *config, log *slog.Logger, registry prometheus.Registerer, status *process.Status) (keeping, error) {
	if cfg.stateSecret == "" {
		return keeping{}, nil
	}
	client, err := cfg.newClient(log)
	if err != nil {
		return keeping{}, err
	}
	namespace, secret, _ := kube.ParseKept(cfg.stateSecret) // validate has seen it
	slots, err := client.NewSlots(namespace, secret, state.Count)
	if err != nil {
		return keeping{}, err
	}
	return keeping{
		Keeper: state.New(state.Config{
			Dir: cfg.dataDir, Cluster: cfg.clusterName, ID: cfg.clusterID, Slots: slots,
			Roots:     []string{"pki", "joined", "peers", "identities", "mesh-addresses", "kubernetes-uid"},
			Lazy:      []string{"identities", "mesh-addresses", filepath.Join("pki", "holders.json")},
			Essential: filepath.Join("pki", "ca.key"),
			Prefixes:  slices.Concat(join.Kept(), peer.Kept(), token.Kept()),
			Logger:    log, Registerer: registry,
		}),
		dir: filepath.Join(cfg.dataDir, "state"), ready: status.Condition("state"),
	}, nil
}

// restore fills an empty data directory, which is this process's until release. It
// waits for the Kubernetes API.
func (k keeping) restore(ctx context.Context) (release func(), err error) {
	if k.Keeper == nil {
		return func() {}, nil
	}
	if release, err = kvstore.HoldDir(ctx, k.dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	err = k.Restore(ctx, func(err error) {
		k.ready.SetNotReady(fmt.Sprintf("nothing begins before it is known what is kept: %v", err))
	})
	if err != nil {
		release()
		return nil, fmt.Errorf("--state-secret: %w", err)
	}
	return release, nil
}

// fill gives etcd what is kept of its keys.
func (k keeping) fill(ctx context.Context, etcd *kvstore.Client) error {
	if k.Keeper == nil {
		return nil
	}
	if err := k.Fill(ctx, etcd); err != nil {
		return fmt.Errorf("--state-secret: %w", err)
	}
	return nil
}

func (k keeping) run(ctx context.Context) error {
	if k.Keeper == nil {
		return nil
	}
	if err := k.Run(ctx); err != nil {
		return fmt.Errorf("--state-secret: %w", err)
	}
	return nil
}

// first waits until what there is at the start is claimed and kept, the authority above
// all: before that nobody is let in who would trust it. It reports false when ctx ended.
func (k keeping) first(ctx context.Context, claimed <-chan struct{}) bool {
	select {
	case <-claimed:
	case <-ctx.Done():
		return false
	}
	if k.Keeper == nil {
		return true
	}
	for {
		err := k.Flush(ctx)
		if err == nil {
			k.ready.SetReady()
			return true
		}
		k.ready.SetNotReady(fmt.Sprintf("nobody is let in before the authority is kept: %v", err))
		if !retry.Sleep(ctx, keptAgain) {
			return false
		}
	}
}

// last keeps what changed while all else ended.
func (k keeping) last(ctx context.Context) {
	if k.Keeper != nil {
		k.Last(ctx)
	}
}

func (k keeping) problems() []string {
	if k.Keeper == nil {
		return nil
	}
	out := k.Problems()
	for i := range out {
		out[i] = "--state-secret: " + out[i]
	}
	return out
}

// keepers are the calls that change what is kept, and whether each message that they
// send tells of it, or their end alone.
func keepers() map[string]bool {
	return map[string]bool{
		joinpb.Join_Join_FullMethodName: true,

		joinpb.Membership_Invite_FullMethodName: false, joinpb.Membership_Accept_FullMethodName: false, joinpb.Membership_Disconnect_FullMethodName: false,
		joinpb.Membership_Declare_FullMethodName: false, joinpb.Membership_Issue_FullMethodName: false,
		rotationpb.Rotation_Start_FullMethodName: false, rotationpb.Rotation_Finish_FullMethodName: false,
		strangerpb.Enrolment_Enrol_FullMethodName: false, strangerpb.Tokens_Make_FullMethodName: false, strangerpb.Tokens_Revoke_FullMethodName: false,
	}
}

// acknowledging registers services whose calls are answered when what they changed
// is kept.
type acknowledging struct {
	grpc.ServiceRegistrar
	flush func(context.Context) error
}

// registrar returns where services are registered.
func (k keeping) registrar(r grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	if k.Keeper == nil {
		return r
	}
	return acknowledging{ServiceRegistrar: r, flush: k.Flush}
}

// RegisterService adds the wait to the calls that need it.
func (a acknowledging) RegisterService(desc *grpc.ServiceDesc, impl any) {
	calls, d := keepers(), *desc
	d.Methods, d.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i, m := range d.Methods {
		if _, is := calls["/"+d.ServiceName+"/"+m.MethodName]; is {
			d.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
				answer, err := m.Handler(srv, ctx, dec, interceptor)
				if err == nil {
					err = a.wait(ctx)
				}
				return answer, err
			}
		}
	}
	for i, s := range d.Streams {
		if each, is := calls["/"+d.ServiceName+"/"+s.StreamName]; is {
			d.Streams[i].Handler = func(srv any, stream grpc.ServerStream) error {
				ctx := stream.Context()
				if each {
					stream = awaiting{ServerStream: stream, wait: a.wait}
				}
				if err := s.Handler(srv, stream); err != nil {
					return err
				}
				return a.wait(ctx)
			}
		}
	}
	a.ServiceRegistrar.RegisterService(&d, impl)
}

// wait returns when all is kept, or an error for who called.
func (a acknowledging) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, keptWithin, errors.New("the Kubernetes API does not answer"))
	defer cancel()
	if err := a.flush(ctx); err != nil {
		return grpcstatus.Errorf(codes.Unavailable, "what was changed is not kept in the Kubernetes API yet and would be lost with this pod; do it again when `causeway status` says that it can be: %v", err)
	}
	return nil
}

// awaiting is a stream each of whose messages is sent when what it tells is kept.
type awaiting struct {
	grpc.ServerStream
	wait func(context.Context) error
}

// SendMsg waits, and sends.
func (s awaiting) SendMsg(m any) error {
	if err := s.wait(s.Context()); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}
