package main

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
)

// What is served beside the feed has the connection at the same time, and all of
// it ends before the connection does.
func TestBeside(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var served atomic.Int32
	both := make(chan struct{}, 2)
	serve := func(ctx context.Context, _ grpc.ClientConnInterface) {
		both <- struct{}{}
		<-ctx.Done()
		served.Add(1)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		beside(serve, serve)(ctx, nil)
	}()
	for range 2 {
		<-both
	}
	cancel()
	<-done
	if n := served.Load(); n != 2 {
		t.Errorf("%d had ended", n)
	}
}
