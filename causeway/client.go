package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// callTimeout bounds one question to an API server.
const callTimeout = 10 * time.Second

// An API server that is frozen, or away without a word, is noticed after
// keepaliveTime + keepaliveTimeout.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 10 * time.Second
)

// maxAnswer is in bytes; all services of a large mesh are tens of megabytes.
const maxAnswer = 256 << 20

// dial connects to the admin service of the cluster that the flags name. The
// caller closes the connection.
func dial(ctx context.Context, opts *options) (adminpb.AdminClient, io.Closer, error) {
	conn, err := dialGateway(ctx, opts)
	if err != nil {
		return nil, nil, err
	}
	return adminpb.NewAdminClient(conn), conn, nil
}

// dialGateway connects to the gateway of the cluster that the flags name: by a
// Kubernetes context, else by an admin file. The caller closes the connection.
func dialGateway(ctx context.Context, opts *options) (*grpc.ClientConn, error) {
	if opts.adminFileGiven && opts.contextGiven {
		return nil, errors.New("--admin-file and --context or --kubeconfig each name a cluster: give one of them")
	}
	if opts.kubernetes.given() && !opts.adminFileGiven {
		return opts.kubernetes.dial(ctx)
	}
	return dialFile(opts.adminFile)
}

// dialFile connects to the gateway that an admin file names.
func dialFile(adminFile string) (*grpc.ClientConn, error) {
	if adminFile == "" {
		return nil, errors.New("no cluster is named: give --admin-file, or set CAUSEWAY_ADMIN_FILE, to <data-dir>/admin.yaml of an API server" + orContext)
	}
	file, err := pki.ReadAdmin(adminFile)
	if err != nil {
		return nil, err
	}
	return dialAdmin(adminFile, file)
}

// dialAdmin connects with what an admin file holds; from is where it came from.
// The dialers are how the endpoint is reached, TCP when there is none.
func dialAdmin(from string, file pki.Admin, dialers ...func(context.Context, string) (net.Conn, error)) (*grpc.ClientConn, error) {
	tls, err := file.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	how := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(tls)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	}
	for _, dialer := range dialers {
		how = append(how, grpc.WithContextDialer(dialer))
	}
	conn, err := grpc.NewClient("passthrough:///"+file.Endpoint, how...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return conn, nil
}

// dialAgent connects to the agent at a unix socket. The caller closes the connection.
func dialAgent(socket string) (adminpb.AdminClient, io.Closer, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", socket, err)
	}
	return adminpb.NewAdminClient(conn), conn, nil
}

// ask bounds a call and says in one line why it gave no answer.
func ask[Q, R any](ctx context.Context, call func(context.Context, Q, ...grpc.CallOption) (R, error), request Q) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := call(ctx, request)
	if err != nil {
		return answer, answered(err)
	}
	return answer, nil
}

// printJSON writes m with every field, so that programs need not know defaults.
func printJSON(w io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}
