package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Dial connects to the gateway in one of the API server's pods, through the
// Kubernetes API: whoever reaches that reaches the gateway. No port is opened here.
// The caller closes the connection.
func (c *Cluster) Dial(ctx context.Context) (net.Conn, error) {
	pod, err := c.readyPod(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.forward(pod)
	if err != nil {
		return nil, fmt.Errorf("context %s: reach pod %s through the Kubernetes API: %w; that takes the right to create pods/portforward in %s, and an API server that reaches its nodes",
			c.Context, pod, err, c.Namespace)
	}
	return conn, nil
}

// forward opens a port of a pod as kubectl does: over a websocket, or SPDY where
// Kubernetes, or a proxy on the way, does not know that.
func (c *Cluster) forward(pod string) (net.Conn, error) {
	request := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.Namespace).Name(pod).SubResource("portforward")
	streaming := rest.CopyConfig(c.Rest)
	streaming.Timeout = 0 // it lives as long as the command
	transport, upgrader, err := spdy.RoundTripperFor(streaming)
	if err != nil {
		return nil, err
	}
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(request.URL(), streaming)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, request.URL())
	dialer := portforward.NewFallbackDialerForStreaming(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	tunnel, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	conn, err := openPort(tunnel, GatewayPort)
	if err != nil {
		_ = tunnel.Close()
		return nil, err
	}
	return conn, nil
}

// openPort makes a connection of two streams of the tunnel: one for bytes, one on
// which the kubelet says what went wrong.
func openPort(tunnel httpstream.Connection, port int) (net.Conn, error) {
	header := http.Header{}
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	header.Set(corev1.PortHeader, strconv.Itoa(port))
	header.Set(corev1.PortForwardRequestIDHeader, "0")
	trouble, err := tunnel.CreateStream(header)
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	_ = trouble.Close() // nothing is said to it
	header.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := tunnel.CreateStream(header)
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	// A stream has no deadlines; a pipe has.
	near, far := net.Pipe()
	conn := &forwarded{Conn: near, ended: make(chan struct{})}
	go conn.carry(far, data, trouble, tunnel)
	return conn, nil
}

// forwarded is a connection to a pod.
type forwarded struct {
	net.Conn
	// said is what the kubelet complained of; it may be read once ended is closed.
	said  error
	ended chan struct{}
}

// closeTime is what a tunnel has to end in.
const closeTime = 5 * time.Second

func (f *forwarded) carry(far net.Conn, data, trouble httpstream.Stream, tunnel httpstream.Connection) {
	defer close(f.ended)
	complained := make(chan error, 1)
	go func() {
		text, err := io.ReadAll(io.LimitReader(trouble, 4<<10))
		if err == nil && len(text) > 0 {
			err = errors.New(oneLine(string(text)))
		} else {
			err = nil // it ended with the connection
		}
		complained <- err
		if err != nil {
			_ = far.Close()
		}
	}()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(far, data) // an end of either kind is one
		_ = far.Close()
	}()
	_, _ = io.Copy(data, far)
	_ = data.Close()
	_ = tunnel.Close()
	<-back
	select {
	case f.said = <-complained:
	case <-time.After(closeTime):
	}
}

// Read says why a connection ended, when the kubelet did.
func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if err != nil && errors.Is(err, io.EOF) {
		<-f.ended
		if f.said != nil {
			return n, f.said
		}
	}
	return n, err
}

// Close ends the connection and returns when nothing of it runs any more.
func (f *forwarded) Close() error {
	err := f.Conn.Close()
	<-f.ended
	return err
}
